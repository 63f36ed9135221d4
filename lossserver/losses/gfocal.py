"""Generalized focal losses: quality and distribution."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import (
    one_hot,
    probability_entropy,
    refuse_no_probability,
    sigmoid_entropy,
)
from lossserver.losses.loss import require
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class QualityFocalLoss(RowwiseLoss):
    """Quality focal loss: a class score that is to equal the box's quality.

    ℓ = Σ_c |y_c - σ_c|^β · [-y_c log σ_c - (1 - y_c) log(1 - σ_c)]    (eq. 5)

    with σ = σ(pred), and y the quality at the labelled class, 0 at the others.

    Parameters:
        use_sigmoid: must be true; upstream has no softmax form.
        beta: exponent β of the distance between score and quality.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none". The mean is over N rows.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C]; probabilities in [0, 1] if activated.
        target: a list of the class index [N] and the quality [N], such as an
            IoU, in [0, 1]; a class out of 0..C-1, -1 among them, is background,
            and a fraction of a class is cut off. Or y itself, shaped like pred,
            [N, C, ...]. A gradient flows into the quality, and into y except
            where it is 0.
        weight: broadcasts with the loss, [N].

    Returns:
        Unreduced float [N, ...], in nats, summed over classes.

    Raises:
        ValueError: use_sigmoid false, a list of another length than two, a
            probability out of range if activated, or shapes that do not fit.

    Source:
        Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388, eq. 5. Same
        values as MMDetection 3.3.0 `QualityFocalLoss`.
    """

    TREES: ClassVar[frozenset[str]] = frozenset({"target"})

    use_sigmoid: bool = True
    beta: float = 2.0
    activated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.use_sigmoid,
            "use_sigmoid",
            "must be true: there is no softmax quality focal loss",
            False,
        )

    def fit(self, pred: Tensor, target: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.activated:
            refuse_no_probability(pred, "pred")
        if not isinstance(target, Tensor):
            return self._fit_list(pred, target)
        require(pred.dim() >= 2, "pred", "must be [N, C, ...]", list(pred.shape))
        require(
            target.shape == pred.shape,
            "target",
            f"must be a list of class index and quality, or shaped like pred, {list(pred.shape)}",
            list(target.shape),
        )
        if self.activated:
            refuse_no_probability(target, "target")
        return {"pred": pred, "target": target}, (pred.shape[0], *pred.shape[2:])

    def _fit_list(self, pred: Tensor, target: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() == 2, "pred", "must be [N, C]", list(pred.shape))
        if (
            not isinstance(target, list)
            or len(target) != 2
            or not all(isinstance(part, Tensor) for part in target)
        ):
            given = f"{len(target)} parts" if isinstance(target, list) else type(target).__name__
            raise RefusedError("target", "must be a list of class index and quality", given)
        for i, part in enumerate(target):
            require(
                part.shape == pred.shape[:1],
                f"target[{i}]",
                f"must be [N], here {[len(pred)]}",
                list(part.shape),
            )
        label, quality = target
        if label.is_floating_point():
            # Cut off towards 0, a class just below 0 would become class 0.
            label = label.where(label >= 0, -1)
        label = label.long()
        if self.activated:
            refuse_no_probability(quality[(label >= 0) & (label < pred.shape[1])], "target[1]")
        return {"pred": pred, "target": [label, quality]}, tuple(pred.shape[:1])

    def formula(self, pred: Tensor, target: Any) -> Tensor:
        if isinstance(target, Tensor):
            y = target.to(pred.dtype).masked_fill(target == 0, 0)  # where no gradient flows into it
        else:
            label, quality = target
            # Not a product: the quality of a background row counts for nothing, not even as NaN.
            y = torch.where(
                one_hot(label, pred) != 0, quality.to(pred.dtype).unsqueeze(1), pred.new_zeros(())
            )
        if self.activated:
            p, entropy = pred, probability_entropy(pred, y)
        else:
            p, entropy = pred.sigmoid(), sigmoid_entropy(pred, y)
        return (entropy * (y - p).abs().pow(self.beta)).sum(1)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DistributionFocalLoss(RowwiseLoss):
    """Distribution focal loss: a distance as a distribution over whole numbers.

    ℓ = -(i + 1 - y) log S_i - (y - i) log S_(i+1);  i ≤ y < i + 1     (eq. 6)

    with S = softmax(pred) over 0..n.

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, n+1] or [N, n+1, ...].
        target: distance y [N, ...], in units of a bin: at least 0 and below n.
            One between -1 and 0 counts from i = 0, with a negative factor of
            S_1, as upstream. A gradient flows into it.
        weight: broadcasts with the loss, [N, ...].

    Returns:
        Unreduced float [N, ...], in nats.

    Raises:
        ValueError: a distance of n or above, even n itself, as upstream, or of
            -1 or below; or shapes that do not fit.

    Source:
        Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388, eq. 6. Same
        values as MMDetection 3.3.0 `DistributionFocalLoss`.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() >= 2, "pred", "must be [N, n+1, ...]", list(pred.shape))
        shape = (pred.shape[0], *pred.shape[2:])
        require(
            target.shape == shape,
            "target",
            f"must be {list(shape)} for pred {list(pred.shape)}",
            list(target.shape),
        )
        highest = pred.shape[1] - 1
        y = target.to(pred.dtype)
        outside = y[(y <= -1) | (y >= highest)]
        if len(outside):
            raise RefusedError(
                "target",
                f"a distance must be at least 0 and below {highest}, the last of "
                f"{highest + 1} bins",
                float(outside[0]),
            )
        return {"pred": pred, "target": target}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        y = target.to(pred.dtype)
        i = y.detach().nan_to_num(nan=0.0).trunc()  # a NaN's place is any; the loss is NaN by y
        log_p, place = pred.log_softmax(1), i.long()
        # Not gathered: the gradient of that is scattered, which no kernel can fuse with the rest.
        left = F.nll_loss(log_p, place, reduction="none")
        right = F.nll_loss(log_p, place + 1, reduction="none")
        return torch.lerp(left, right, y - i)
