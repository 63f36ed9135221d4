"""Varifocal loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.losses.classes import sigmoid_entropy
from lossserver.losses.loss import require
from lossserver.losses.rows import Elementwise
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class VarifocalLoss(Elementwise):
    """Varifocal loss: focal for negatives, weighted by quality for positives.

    ℓ = w · [-q log p - (1 - q) log(1 - p)];  p = σ(pred)              (eq. 2)
    w = q where q > 0, else α |p - q|^γ

    Parameters:
        use_sigmoid: must be true; upstream has no softmax form.
        alpha: weight α ≥ 0 of negatives, which is not that of FocalLoss.
        gamma: focusing exponent γ of negatives.
        iou_weighted: weigh a positive by its quality q; otherwise by 1.
        reduction: "mean", "sum" or "none". The mean is over all N · C elements;
            detectors pass the number of positives as avg_factor.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C].
        target: quality q, shaped like pred: the IoU at the class of the object,
            0 elsewhere. A gradient flows into it, also through w.
        weight: broadcasts with pred: [N, C], [N, 1]. An [N] weight is refused,
            unless N is C and it weighs classes.

    Returns:
        Unreduced float [N, C], in nats. With γ below 1 the gradient where p
        equals q is NaN, as upstream: at logits so low that p rounds to 0.

    Raises:
        ValueError: use_sigmoid false, alpha < 0, target not shaped like pred, or
            a weight that does not broadcast.

    Source:
        Zhang et al., VarifocalNet, 2020, arXiv:2008.13367, eq. 2. Same values
        as MMDetection 3.3.0 `VarifocalLoss`.
    """

    use_sigmoid: bool = True
    alpha: float = 0.75
    gamma: float = 2.0
    iou_weighted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.use_sigmoid,
            "use_sigmoid",
            "must be true: there is no softmax varifocal loss",
            False,
        )
        require(self.alpha >= 0, "alpha", "must be at least 0", self.alpha)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        q, p = target.to(pred.dtype), pred.sigmoid()
        negative = self.alpha * (p - q).abs().pow(self.gamma)
        w = torch.where(q > 0, q if self.iou_weighted else 1.0, negative)
        return w * sigmoid_entropy(pred, q)
