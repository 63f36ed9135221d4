"""MMDetection 2.24.1's losses, under the scope `mmdet2.`, where they differ from 3.3.0's.

All that has not changed is another name of the same class. A loss that came
with MMDetection 3 has no such name.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lossserver.losses import focal, gfocal, heatmap, regression
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES, RefusedError

#: Losses whose values, gradients and refusals are the same in both.
UNCHANGED = (
    "AssociativeEmbeddingLoss",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "CrossEntropyLoss",
    "DIoULoss",
    "DiceLoss",
    "DistributionFocalLoss",
    "GHMC",
    "GHMR",
    "GIoULoss",
    "IoULoss",
    "KnowledgeDistillationKLDivLoss",
    "MSELoss",
    "SeesawLoss",
    "VarifocalLoss",
)


@LOSSES.register_as("mmdet2.L1Loss")
@dataclass(frozen=True, kw_only=True)
class L1Loss(regression.L1Loss):
    """Absolute error, as in MMDetection 2.24.1.

    ℓ = |pred - target|

    Without the short cut for weights of which none is above 0.

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...]; the gradient where pred equals target is 0.
        target: shaped like pred.
        weight: broadcasts with pred: [N, ...], [N, 1], a scalar. An [N] weight
            of [N, 4] boxes is refused, unless N is 4 and it weighs coordinates.

    Returns:
        Unreduced float [N, ...], in units of pred.

    Raises:
        ValueError: target not shaped like pred, or a weight that does not broadcast.

    Source:
        MMDetection 2.24.1, `L1Loss`.
    """

    def weighs_nothing(self, call: Call) -> bool:
        return False


@LOSSES.register_as("mmdet2.SmoothL1Loss")
@dataclass(frozen=True, kw_only=True)
class SmoothL1Loss(regression.SmoothL1Loss):
    """Squared error near zero, absolute error beyond, as in MMDetection 2.24.1.

    ℓ = d² / (2β) where d < β, else d - β/2;  d = |pred - target|      (eq. 3, at β = 1)

    Without the short cut for weights of which none is above 0.

    Parameters:
        beta: where the square ends, β > 0, in units of pred.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...].
        target: shaped like pred.
        weight: as of mmdet2.L1Loss.

    Returns:
        Unreduced float [N, ...], in units of pred.

    Raises:
        ValueError: beta ≤ 0, target not shaped like pred, or a weight that does
            not broadcast.

    Source:
        Girshick, Fast R-CNN, 2015, arXiv:1504.08083, eq. 3. Same values as
        MMDetection 2.24.1 `SmoothL1Loss`.
    """

    def weighs_nothing(self, call: Call) -> bool:
        return False


@LOSSES.register_as("mmdet2.FocalLoss")
@dataclass(frozen=True, kw_only=True)
class FocalLoss(focal.FocalLoss):
    """Sigmoid focal loss of class indices, as in MMDetection 2.24.1.

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
        target: class index, integer [N], in 0..C where C is background.
        weight: [N], [N, 1], [N, C] or [N · C].

    Returns:
        Unreduced float [N, C], in nats. With γ below 1 the gradient of a logit
        so far on the right side that 1 - p_t rounds to 0 is NaN, as upstream.

    Raises:
        ValueError: gamma < 0, alpha outside [0, 1], use_sigmoid false, a class
            index or probability out of range, or shapes that do not fit.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017,
        arXiv:1708.02002, eq. 5. Same values as MMDetection 2.24.1 `FocalLoss`.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(target.dim() == 1, "target", "must be [N] class indices", list(target.shape))
        return super().fit(pred, target)


@LOSSES.register_as("mmdet2.QualityFocalLoss")
@dataclass(frozen=True, kw_only=True)
class QualityFocalLoss(gfocal.QualityFocalLoss):
    """Quality focal loss of class index and quality, as in MMDetection 2.24.1.

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
            and a fraction of a class is cut off. A gradient flows into the quality.
        weight: broadcasts with the loss, [N].

    Returns:
        Unreduced float [N], in nats, summed over classes.

    Raises:
        ValueError: use_sigmoid false, a target that is no list of two, a
            probability out of range if activated, or shapes that do not fit.

    Source:
        Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388, eq. 5. Same
        values as MMDetection 2.24.1 `QualityFocalLoss`.
    """

    def fit(self, pred: Tensor, target: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        if isinstance(target, Tensor):
            raise RefusedError("target", "must be a list of class index and quality", "one tensor")
        return super().fit(pred, target)


@LOSSES.register_as("mmdet2.GaussianFocalLoss")
@dataclass(frozen=True, kw_only=True)
class GaussianFocalLoss(heatmap.GaussianFocalLoss):
    """Focal loss of a heat map with a Gaussian around each key point, as in MMDetection 2.24.1.

    ℓ = -(1 - p)^α log(p + ε)                  where t = 1             (eq. 1)
        -(1 - t)^γ p^α log(1 - p + ε)          everywhere;  ε = 1e-12

    Parameters:
        alpha: focusing exponent α of the prediction.
        gamma: exponent γ of the distance from a peak.
        pos_weight: must be 1; other factors came with MMDetection 3.
        neg_weight: likewise.
        reduction: "mean", "sum" or "none". The mean is over all elements;
            detectors pass the number of peaks as avg_factor.
        loss_weight: factor of the result.

    Inputs:
        pred: probabilities p, float, of any shape. Out of [0, 1] the loss may be
            NaN.
        target: heat map t, shaped like pred. A gradient flows into it.
        weight: broadcasts with pred.

    Returns:
        Unreduced float, shaped like pred, in nats.

    Raises:
        ValueError: pos_weight or neg_weight other than 1, target not shaped like
            pred, or a weight that does not broadcast.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 1. Same values as
        MMDetection 2.24.1 `GaussianFocalLoss`.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pos_weight", "neg_weight"):
            given = getattr(self, name)
            require(given == 1, name, "came with MMDetection 3; must be 1", given)


for _name in UNCHANGED:
    LOSSES.alias(f"mmdet2.{_name}", _name)
