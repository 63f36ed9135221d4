"""Focal losses: cross entropies that down-weight what is already easy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import (
    labelled,
    labels_of,
    one_hot,
    probability_entropy,
    refuse_no_probability,
    refuse_outside,
    sigmoid_entropy,
)
from lossserver.losses.loss import require
from lossserver.losses.rows import Elementwise
from lossserver.registry import LOSSES, RefusedError


@dataclass(frozen=True, kw_only=True)
class Focal(Elementwise):
    """What focal losses share: the parameters of eq. 5, class indices, and weights."""

    use_sigmoid: bool = True
    gamma: float = 2.0
    alpha: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.use_sigmoid, "use_sigmoid", "must be true: there is no softmax focal loss", False
        )
        require(self.gamma >= 0, "gamma", "must be at least 0", self.gamma)
        require(0 <= self.alpha <= 1, "alpha", "must be in [0, 1]", self.alpha)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        if pred.dim() != 2 or target.shape != pred.shape[:1]:
            raise RefusedError(
                "target",
                f"must be [N] class indices of pred [N, C], here {list(pred.shape)}",
                list(target.shape),
            )
        classes = pred.shape[1]
        labels = labels_of(target)
        refuse_outside(labels, 0, classes, f"in 0..{classes}, where {classes} is background")
        return {"pred": pred, "target": labels}, tuple(pred.shape)

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        if weight.shape == shape:
            return weight
        if weight.dim() and len(shape) == 2:
            if weight.shape[0] == shape[0]:
                return weight.reshape(-1, 1)
            if weight.numel() == math.prod(shape):
                return weight.reshape(shape)
        raise RefusedError(
            "weight",
            f"must be [N], [N, 1], [N, C] or [N·C] for a loss of {list(shape)}",
            list(weight.shape),
        )

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        if target.dim() != pred.dim():
            if self.gamma >= 1:
                return self._of_labels(pred, target)
            target = one_hot(target, pred)
        target = target.to(pred.dtype)
        p, entropy = self.activate(pred, target)
        # 1 - p_t. lerp is exact at both ends: nothing cancels where p is near 0 or 1.
        miss = torch.lerp(p, 1 - p, target)
        alpha_t = target * (2 * self.alpha - 1) + (1 - self.alpha)
        return alpha_t * miss.pow(self.gamma) * entropy

    def _of_labels(self, pred: Tensor, labels: Tensor) -> Tensor:
        """The same of class indices: one sigmoid and one logarithm an element.

        The loss of a label is that of no label with the sign of the logit turned
        and α for 1 - α. Not for γ below 1: there the slope may be infinite.
        """
        there = labelled(labels, pred)
        # The slope of this is one product, that of a torch.where is four operations.
        away = pred * torch.where(there, pred.new_full((), -1.0), 1.0)
        alpha_t = torch.where(there, pred.new_full((), self.alpha), 1 - self.alpha)
        return alpha_t * away.sigmoid().pow(self.gamma) * F.softplus(away, threshold=40)

    def activate(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities, and their binary cross entropy."""
        return pred.sigmoid(), sigmoid_entropy(pred, target)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FocalLoss(Focal):
    """Sigmoid focal loss, for dense detection.

    FL(p_t) = -α_t (1 - p_t)^γ log p_t                                 (eq. 5)

    Parameters:
        use_sigmoid: must be true; upstream has no softmax form.
        gamma: focusing exponent γ ≥ 0. At 0 this is α-weighted cross entropy.
        alpha: weight α in [0, 1] of the positive class.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none". The mean is over all N · C elements;
            detectors pass the number of positives as avg_factor.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C]; probabilities in [0, 1] if activated.
        target: class index, integer [N], in 0..C where C is background; or
            one-hot or soft, shaped like pred, in [0, 1] if activated.
        weight: [N], [N, 1], [N, C] or [N · C].

    Returns:
        Unreduced float [N, C], in nats. With γ below 1 the gradient of a logit
        so far on the right side that 1 - p_t rounds to 0 is NaN, as upstream.

    Raises:
        ValueError: gamma < 0, alpha outside [0, 1], use_sigmoid false, a class
            index or probability out of range, or shapes that do not fit.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017,
        arXiv:1708.02002, eq. 5. Same values as MMDetection 3.3.0 `FocalLoss`.
    """

    activated: bool = False

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.activated:
            refuse_no_probability(pred, "pred")
        if target.dim() != pred.dim():
            return super().fit(pred=pred, target=target)
        require(
            target.shape == pred.shape,
            "target",
            f"must be [N] class indices of pred [N, C], or shaped like pred, {list(pred.shape)}",
            list(target.shape),
        )
        if self.activated:
            refuse_no_probability(target, "target")
        return {"pred": pred, "target": target}, tuple(pred.shape)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        if self.activated and target.dim() != pred.dim():
            target = one_hot(target, pred)
        return super().formula(pred, target)

    def activate(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The same of probabilities as they are, if activated."""
        if self.activated:
            return pred, probability_entropy(pred, target)
        return super().activate(pred, target)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FocalCustomLoss(Focal):
    """Sigmoid focal loss of class indices, as V3Det's detectors are trained.

    FL(p_t) = -α_t (1 - p_t)^γ log p_t                                 (eq. 5)

    Parameters:
        num_classes: must be given, and is not read: C is that of pred.
        use_sigmoid: must be true; upstream has no softmax form.
        gamma: focusing exponent γ ≥ 0.
        alpha: weight α in [0, 1] of the positive class.
        activated: not read: pred holds logits all the same, as upstream.
        reduction: "mean", "sum" or "none". The mean is over all N · C elements.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C].
        target: class index, integer [N], in 0..C where C is background.
        weight: [N], [N, 1], [N, C] or [N · C].

    Returns:
        Unreduced float [N, C], in nats; its gradient as of FocalLoss.

    Raises:
        ValueError: num_classes left out or -1, gamma < 0, alpha outside [0, 1],
            use_sigmoid false, a class index out of range, or shapes that do not fit.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017,
        arXiv:1708.02002, eq. 5. Same values as MMDetection 3.3.0 `FocalCustomLoss`.
    """

    OUTSIDE: ClassVar[frozenset[str]] = Focal.OUTSIDE | {"activated"}

    num_classes: int
    activated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes != -1, "num_classes", "must be given", -1)
