"""Focal losses: cross entropies that down-weight what is already easy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, one_hot, refuse_outside, sigmoid_entropy
from lossserver.losses.rows import Elementwise
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FocalLoss(Elementwise):
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
            one-hot or soft, shaped like pred.
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

    use_sigmoid: bool = True
    gamma: float = 2.0
    alpha: float = 0.25
    activated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_sigmoid:
            raise RefusedError("use_sigmoid", "must be true: there is no softmax focal loss", False)
        if not self.gamma >= 0:
            raise RefusedError("gamma", "must be at least 0", self.gamma)
        if not 0 <= self.alpha <= 1:
            raise RefusedError("alpha", "must be in [0, 1]", self.alpha)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.activated:
            outside = pred[(pred < 0) | (pred > 1)]
            if len(outside):
                raise RefusedError(
                    "pred", "probabilities (activated=True) must be in [0, 1]", float(outside[0])
                )
        if target.dim() == pred.dim():
            return super().fit(pred=pred, target=target)
        if pred.dim() != 2 or target.shape != pred.shape[:1]:
            raise RefusedError(
                "target",
                f"must be [N] class indices of pred [N, C], or shaped like pred, {list(pred.shape)}",
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
        target = target.to(pred.dtype) if target.dim() == pred.dim() else one_hot(target, pred)
        p = pred if self.activated else pred.sigmoid()
        # 1 - p_t. lerp is exact at both ends: nothing cancels where p is near 0 or 1.
        miss = torch.lerp(p, 1 - p, target)
        alpha_t = target * (2 * self.alpha - 1) + (1 - self.alpha)
        return alpha_t * miss.pow(self.gamma) * self._cross_entropy(pred, target)

    def _cross_entropy(self, pred: Tensor, target: Tensor) -> Tensor:
        if not self.activated:
            return sigmoid_entropy(pred, target)
        # torch asserts that each probability is in [0, 1], on CUDA inside the kernel, where a
        # failure kills the context; a NaN fails it. So a NaN goes around it.
        entropy = F.binary_cross_entropy(pred.nan_to_num(nan=0.5), target, reduction="none")
        return torch.where(pred.isnan(), pred, entropy)
