"""Dice loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DiceLoss(RowwiseLoss):
    """Dice loss: how little two masks overlap.

    ℓ = 1 - 2 Σ p t / (Σ p² + ε + Σ t² + ε)
    naive:  ℓ = 1 - (2 Σ p t + ε) / (Σ p + Σ t + ε)

    with p = σ(pred), each sum over all elements of a row.

    Parameters:
        use_sigmoid: must be true where activate is; upstream has no softmax form.
        activate: pred holds logits; otherwise pred is p.
        naive_dice: the second form.
        eps: ε, which keeps empty masks from dividing by 0. Two empty masks have
            the loss 1 in the first form, 0 in the naive one.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, ...], or p.
        target: mask t, [N, ...] of any number type, with as many elements a row
            as pred: [N, H, W] goes with [N, 1, H, W]. A gradient flows into it.
        weight: [N].

    Returns:
        Unreduced float [N], without unit.

    Raises:
        ValueError: use_sigmoid false with activate, or shapes that do not fit.

    Source:
        Milletari et al., V-Net, 2016, arXiv:1606.04797. Same values as
        MMDetection 3.3.0 `DiceLoss`. Upstream rounds the target's sum to
        float32; here a float64 call stays float64.
    """

    use_sigmoid: bool = True
    activate: bool = True
    naive_dice: bool = False
    eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.use_sigmoid or not self.activate,
            "use_sigmoid",
            "must be true where activate is: there is no softmax dice loss",
            False,
        )

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() >= 2, "pred", "must be [N, ...]", list(pred.shape))
        require(
            target.dim() >= 2
            and len(target) == len(pred)
            and math.prod(target.shape[1:]) == math.prod(pred.shape[1:]),
            "target",
            f"must have as many rows, and elements a row, as pred {list(pred.shape)}",
            list(target.shape),
        )
        return {"pred": pred, "target": target}, (len(pred),)

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        require(
            weight.shape == shape, "weight", f"must be [N], here {list(shape)}", list(weight.shape)
        )
        return weight

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        p, t = (
            (pred.sigmoid() if self.activate else pred).flatten(1),
            target.flatten(1).to(pred.dtype),
        )
        both = 2 * (p * t).sum(1)
        if self.naive_dice:
            return 1 - (both + self.eps) / (p.sum(1) + t.sum(1) + self.eps)
        return 1 - both / (p.square().sum(1) + t.square().sum(1) + 2 * self.eps)
