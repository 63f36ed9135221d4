"""Boxes compared by what they cover."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lossserver.losses.boxes import BoxLoss, Edges, area, edges, giou, iou
from lossserver.losses.loss import require
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class IoULoss(BoxLoss):
    """Intersection over union of boxes, as a loss.

    ℓ = -log IoU                                                       (mode "log")
    ℓ = 1 - IoU²                                                       (mode "square")
    ℓ = 1 - IoU                                                        (mode "linear")

    Parameters:
        mode: "log", "square" or "linear".
        linear: old name of mode "linear"; wins over mode.
        eps: least IoU, in [0, 1]. The area of the union is at least 10⁻⁶,
            whatever eps is.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
            Boxes less than eps over each other have no gradient.
        target: boxes, shaped like pred.
        weight: [N], or [N, 4], whose mean over the last axis counts.

    Returns:
        Unreduced float [N], no unit. A reduced loss with no weight above 0 is
        Σ pred · weight, whatever else is set.

    Raises:
        ValueError: eps or mode out of range, pred no boxes, target not shaped
            like pred, or a weight of another shape.

    Source:
        Yu et al., UnitBox: An Advanced Object Detection Network, 2016,
        arXiv:1608.01471 (mode "log"). Same values as MMDetection 3.3.0
        `IoULoss`.
    """

    SHORT_UNREDUCED: ClassVar[bool] = False

    mode: Literal["linear", "square", "log"] = "log"
    linear: bool = False

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        overlap = iou(pred, target).clamp(min=self.eps)
        if self.linear or self.mode == "linear":
            return 1 - overlap
        return 1 - overlap.square() if self.mode == "square" else -overlap.log()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GIoULoss(BoxLoss):
    """Generalized IoU of boxes, which pulls even where they are apart.

    ℓ = 1 - IoU + |C \\ (A ∪ B)| / |C|                               (algorithm 1)

    with C the smallest box around both.

    Parameters:
        eps: least area of the union and of C, in [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
        target: boxes, shaped like pred.
        weight: [N], or [N, 4], whose mean over the last axis counts.

    Returns:
        Unreduced float [N], in [0, 2]. Where no weight is above 0 a scalar,
        Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: eps out of range, pred no boxes, target not shaped like
            pred, or a weight of another shape.

    Source:
        Rezatofighi et al., Generalized Intersection over Union, 2019,
        arXiv:1902.09630, algorithm 1. Same values as MMDetection 3.3.0
        `GIoULoss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return 1 - giou(pred, target, self.eps)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class EIoULoss(BoxLoss):
    """Extended IoU of boxes, with a square near zero: pulls even where they are apart.

    ℓ = e² / (2s) where e < s, else e - s/2;  e = 1 - I / (U + eps)

    I is the area of the intersection by inclusion and exclusion, measured from
    the top left corner of the box around both. Where boxes are apart it is below 0.

    Parameters:
        smooth_point: s > 0, where the square ends.
        eps: added to the area of the union, in [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
        target: boxes, shaped like pred.
        weight: [N], or [N, 4], whose mean over the last axis counts.

    Returns:
        Unreduced float [N], no unit. Where no weight is above 0 a scalar,
        Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: smooth_point or eps out of range, pred no boxes, target not
            shaped like pred, or a weight of another shape.

    Source:
        Peng and Yu, A Systematic IoU-Related Method: Beyond Simplified
        Regression for Better Localization, IEEE Transactions on Image
        Processing, 2021. Same values as MMDetection 3.3.0 `EIoULoss`.
    """

    smooth_point: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.smooth_point > 0, "smooth_point", "must be above 0", self.smooth_point)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        own, other = edges(pred), edges(target)
        overlap = _extended_overlap(own, other)
        union = area(own) + area(other) - overlap + self.eps
        e = 1 - overlap / union
        s = self.smooth_point
        return torch.where(e < s, 0.5 * e.square() / s, e - 0.5 * s)


def _extended_overlap(a: Edges, b: Edges) -> Tensor:
    """Area of the overlap [...], below 0 where the boxes are apart."""
    start_x, end_x, near_x, far_x = _along(a[0], a[2], b[0], b[2])
    start_y, end_y, near_y, far_y = _along(a[1], a[3], b[1], b[3])
    # The rectangles from the corner to `end` and to `near`, less the two that reach to `far`.
    return end_x * end_y + near_x * near_y - start_x * far_y - far_x * start_y


def _along(a_start: Tensor, a_end: Tensor, b_start: Tensor, b_end: Tensor) -> Edges:
    """Start and end of the overlap, the lesser and the greater of these, from where the first begins."""
    corner = torch.minimum(a_start, b_start)
    start, end = torch.maximum(a_start, b_start), torch.minimum(a_end, b_end)
    near, far = torch.minimum(start, end), torch.maximum(start, end)
    return start - corner, end - corner, near - corner, far - corner
