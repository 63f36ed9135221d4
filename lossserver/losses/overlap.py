"""Losses of how much two regions overlap: Tversky's and Dice's."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lossserver.losses.classes import refuse_no_probability
from lossserver.losses.loss import require
from lossserver.losses.regions import (
    Mode,
    class_mean,
    fit_regions,
    masks_of,
    probabilities,
    refuse_shape,
    void,
)
from lossserver.losses.rows import Exact, RowwiseLoss
from lossserver.registry import LOSSES


@dataclass(frozen=True, kw_only=True)
class Overlap(Exact, RowwiseLoss):
    """One number an image: the mean over regions of what its overlap with the target lacks."""

    mode: Mode
    activated: bool = False
    classes: Literal["all", "present"] = "all"
    ignore_index: int | None = None
    smooth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.smooth >= 0, "smooth", "must be at least 0", self.smooth)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_shape(pred, self.mode)
        if self.activated:
            refuse_no_probability(pred, "pred")
        target = fit_regions(pred, target, self.mode, self.ignore_index, soft=True)
        return {"pred": pred, "target": target}, (len(pred),)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        left_out = void(target, pred, self.mode, self.ignore_index)
        p = probabilities(pred, self.mode, activated=self.activated, left_out=left_out)
        g = masks_of(target, pred, self.mode).to(p.dtype)
        if left_out is not None:
            g = g.masked_fill(left_out, 0)
        lacking, whole = self.parts(p, g)
        if self.classes == "all":
            return class_mean(self.cost(lacking / whole), None)
        present = (g > 0).any(2)
        # 0 / 1 where it is not: it may be 0 / 0, whose slope is NaN, wanted or not.
        lack = lacking.masked_fill(~present, 0) / whole.masked_fill(~present, 1)
        return class_mean(self.cost(lack), present)

    @abstractmethod
    def parts(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """What is lacking, and of what, [N, C] each, of probabilities p and masks g [N, C, M]."""

    def cost(self, lack: Tensor) -> Tensor:
        """What it costs [N, C] that a share, 0 to 1, is lacking."""
        return lack


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class TverskyLoss(Overlap):
    """Tversky loss of regions: false positives and false negatives have each a price.

    T_c = (Σ p g + s) / (Σ p g + α Σ p (1 - g) + β Σ (1 - p) g + s)         (eq. 3)
    ℓ = mean_c (1 - T_c)

    with sums over the pixels of an image, for each class c.

    Parameters:
        mode: "binary", one region, p = σ(pred); "multiclass", p = softmax(pred)
            over classes; "multilabel", p = σ(pred), a region a class.
        alpha: α ≥ 0, price of false positives.
        beta: β ≥ 0, price of false negatives. Both at 1/2 is Dice, both at 1 Jaccard.
        smooth: s ≥ 0, in pixels. At 0, of "all" classes, one neither predicted
            nor there is NaN.
        classes: the mean over classes is over "all", or over those "present" in
            the image's target, which leaves 0 where none is.
        ignore_index: the target of pixels that count nothing; None is none.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C, ...]; binary [N, ...] or [N, 1, ...], all of
            whose pixels are one region. Probabilities in [0, 1] if activated.
        target: class indices, integer [N, ...], in 0..C-1; or masks of 0 and 1
            or soft, shaped like pred. Binary: a mask [N, ...].
        weight: [N].

    Returns:
        Unreduced float [N], in 0..1.

    Raises:
        ValueError: a negative parameter, a class index, mask or probability out
            of range, or shapes that do not fit.

    Source:
        Salehi et al., Tversky loss function for image segmentation using 3D
        fully convolutional deep networks, 2017, arXiv:1706.05721, eq. 3.
    """

    alpha: float = 0.3
    beta: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha >= 0, "alpha", "must be at least 0", self.alpha)
        require(self.beta >= 0, "beta", "must be at least 0", self.beta)

    def parts(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        hit = (p * g).sum(2)
        wrong = self.alpha * (p * (1 - g)).sum(2) + self.beta * ((1 - p) * g).sum(2)
        return wrong, hit + wrong + self.smooth  # of 1 - T, of which nothing cancels


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FocalTverskyLoss(TverskyLoss):
    """Focal Tversky loss: the Tversky loss of each class, to a power.

    ℓ = mean_c (1 - T_c)^(1/γ);  T as of TverskyLoss                        (eq. 4)

    Parameters:
        mode: "binary", one region, p = σ(pred); "multiclass", p = softmax(pred)
            over classes; "multilabel", p = σ(pred), a region a class.
        gamma: γ > 0, in 1..3 in the paper. Above 1 it is the regions nearly
            right that have the steeper slope.
        alpha: α ≥ 0, price of false positives; the paper writes β for it.
        beta: β ≥ 0, price of false negatives; the paper writes α for it.
        smooth: s ≥ 0, in pixels. At 0, of "all" classes, one neither predicted
            nor there is NaN.
        classes: the mean over classes is over "all", or over those "present" in
            the image's target, which leaves 0 where none is. The paper's is the sum.
        ignore_index: the target of pixels that count nothing; None is none.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C, ...]; binary [N, ...] or [N, 1, ...], all of
            whose pixels are one region. Probabilities in [0, 1] if activated.
        target: class indices, integer [N, ...], in 0..C-1; or masks of 0 and 1
            or soft, shaped like pred. Binary: a mask [N, ...].
        weight: [N].

    Returns:
        Unreduced float [N], in 0..1. Where T_c is 1 to the last bit the gradient
        is 0, and not the infinite slope of the power.

    Raises:
        ValueError: a negative parameter, a class index, mask or probability out
            of range, or shapes that do not fit.

    Source:
        Abraham & Khan, A Novel Focal Tversky Loss Function With Improved
        Attention U-Net for Lesion Segmentation, 2018, arXiv:1810.07842, eq. 4.
    """

    gamma: float = 4 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma > 0, "gamma", "must be above 0", self.gamma)

    def cost(self, lack: Tensor) -> Tensor:
        perfect = lack == 0
        return lack.masked_fill(perfect, 1).pow(1 / self.gamma).masked_fill(perfect, 0)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SoftDiceLoss(Overlap):
    """Dice loss of regions: one minus the share of both that both share.

    D_c = (2 Σ p g + s) / (Σ p² + Σ g² + s), or with Σ p + Σ g below
    ℓ = mean_c (1 - D_c)

    with sums over the pixels of an image, for each class c.

    Parameters:
        mode: "binary", one region, p = σ(pred); "multiclass", p = softmax(pred)
            over classes; "multilabel", p = σ(pred), a region a class.
        squared: the denominator has squares, as the paper's; or else plain sums.
        smooth: s ≥ 0, in pixels. At 0, of "all" classes, one neither predicted
            nor there is NaN.
        classes: the mean over classes is over "all", or over those "present" in
            the image's target, which leaves 0 where none is.
        ignore_index: the target of pixels that count nothing; None is none.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C, ...]; binary [N, ...] or [N, 1, ...], all of
            whose pixels are one region. Probabilities in [0, 1] if activated.
        target: class indices, integer [N, ...], in 0..C-1; or masks of 0 and 1
            or soft, shaped like pred. Binary: a mask [N, ...].
        weight: [N].

    Returns:
        Unreduced float [N], in 0..1.

    Raises:
        ValueError: smooth < 0, a class index, mask or probability out of range,
            or shapes that do not fit.

    Source:
        Milletari et al., V-Net, 2016, arXiv:1606.04797, section 3, one minus it
        and with s. MMDetection's own is `DiceLoss`.
    """

    squared: bool = True

    def parts(self, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        # The denominator less twice the overlap, of which nothing cancels.
        apart = (p - g).square() if self.squared else p * (1 - g) + (1 - p) * g
        total = p.square() + g.square() if self.squared else p + g
        return apart.sum(2), total.sum(2) + self.smooth
