"""Lovász losses: the Jaccard index of regions, extended to errors of any size."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lossserver.losses.classes import refuse_no_probability
from lossserver.losses.loss import require
from lossserver.losses.regions import (
    by_region,
    class_mean,
    fit_regions,
    masks_of,
    probabilities,
    refuse_shape,
    void,
)
from lossserver.losses.rows import Exact, RowwiseLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class LovaszHingeLoss(Exact, RowwiseLoss):
    """Lovász hinge: a binary segmentation's Jaccard loss, convex in the logits.

    m_i = max(0, 1 - pred_i (2 g_i - 1))
    ℓ = Σ_k m_π(k) (Δ({π(1..k)}) - Δ({π(1..k-1)}))                      (alg. 1)

    where π sorts the errors m of an image, largest first, and Δ of a set of
    pixels is one minus the Jaccard index that is left if they are all wrong.

    Parameters:
        ignore_index: the target of pixels that count nothing; None is none.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, ...] or [N, 1, ...]; a row is an image.
        target: mask g of 0 and 1, integer or bool [N, ...].
        weight: [N].

    Returns:
        Unreduced float [N], in logits. The gradient takes π as a constant; of
        equal errors the first in the image counts as the larger. An image
        without a positive pixel is its largest error.

    Raises:
        ValueError: a target other than 0 and 1, or shapes that do not fit.

    Source:
        Berman et al., The Lovász-Softmax loss, 2018, arXiv:1705.08790,
        algorithm 1, per image.
    """

    ignore_index: int | None = None

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_shape(pred, "binary")
        target = fit_regions(pred, target, "binary", self.ignore_index)
        return {"pred": pred, "target": target}, (len(pred),)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        x, positive = by_region(pred, "binary"), by_region(target, "binary") == 1
        error = 1 - torch.where(positive, x, -x)
        left_out = void(target, pred, "binary", self.ignore_index)
        if left_out is not None:
            error, positive = error.masked_fill(left_out, -1), positive & ~left_out
        return extension(error, positive).squeeze(1)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class LovaszSoftmaxLoss(Exact, RowwiseLoss):
    """Lovász-softmax: a segmentation's mean Jaccard loss over classes, of probabilities.

    m_ci = |g_ci - p_ci|;  p = softmax(pred)
    ℓ = mean_c Σ_k m_cπ(k) (Δ_c({π(1..k)}) - Δ_c({π(1..k-1)}))          (alg. 1)

    where π sorts the errors m_c of an image, largest first, and Δ_c of a set of
    pixels is one minus the Jaccard index that is left if they are all wrong.

    Parameters:
        classes: the mean is over the classes "present" in the image's target,
            which leaves 0 where none is, or over "all".
        ignore_index: the target of pixels that count nothing; None is none.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C, ...]; a row is an image. Probabilities in
            [0, 1] if activated.
        target: class indices, integer [N, ...], in 0..C-1.
        weight: [N].

    Returns:
        Unreduced float [N], in 0..1. The gradient takes π as a constant; of
        equal errors the first in the image counts as the larger.

    Raises:
        ValueError: a class index or probability out of range, or shapes that do
            not fit.

    Source:
        Berman et al., The Lovász-Softmax loss, 2018, arXiv:1705.08790,
        algorithm 1, per image.
    """

    classes: Literal["present", "all"] = "present"
    ignore_index: int | None = None
    activated: bool = False

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_shape(pred, "multiclass")
        if self.activated:
            refuse_no_probability(pred, "pred")
        whole = (pred.shape[0], *pred.shape[2:])
        rule = f"must be class indices {list(whole)} for pred {list(pred.shape)}"
        require(target.shape == whole, "target", rule, list(target.shape))
        target = fit_regions(pred, target, "multiclass", self.ignore_index)
        return {"pred": pred, "target": target}, (len(pred),)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        left_out = void(target, pred, "multiclass", self.ignore_index)
        p = probabilities(pred, "multiclass", activated=self.activated, left_out=left_out)
        positive = masks_of(target, pred, "multiclass")
        error = torch.where(positive, 1 - p, p)
        if left_out is not None:
            error, positive = error.masked_fill(left_out, -1), positive & ~left_out
        present = positive.any(2) if self.classes == "present" else None
        return class_mean(extension(error, positive), present)


def extension(error: Tensor, positive: Tensor) -> Tensor:
    """The Lovász extension [...] of the Jaccard loss at max(0, error) [..., M].

    A negative error stands last and so changes no other's step: it may be that
    of a pixel that is not to count.
    """
    ordered, order = error.sort(dim=-1, descending=True, stable=True)
    return (ordered.relu() * steps(positive.gather(-1, order), error.dtype)).sum(-1)


def steps(positive: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much the Jaccard loss grows as each pixel [..., M] in turn becomes wrong.

    A positive pixel takes 1 from the intersection, a negative one adds 1 to the
    union. Written as the difference it is, not as that of two numbers near 1,
    and of counts that stay whole: otherwise float32 keeps three digits of it at 10^4 pixels.
    """
    total = positive.sum(-1, keepdim=True)
    left = (total - positive.cumsum(-1)).to(dtype)
    union = (total + (~positive).cumsum(-1)).to(dtype)
    step = torch.where(positive, 1 / union, left / (union * (union - 1).clamp(min=1)))
    # Of nothing the Jaccard index is 1, and 0 as soon as one pixel is wrong.
    return torch.where(total > 0, step, (union == 1).to(dtype))
