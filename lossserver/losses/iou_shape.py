"""Boxes compared by what they cover, where they are and how they are shaped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.boxes import (
    BoxLoss,
    Edges,
    apart,
    distance,
    edges,
    enclosing,
    sides,
    soft_iou,
)
from lossserver.losses.loss import require
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DIoULoss(BoxLoss):
    """Distance IoU of boxes: overlap, and how far the centres are apart.

    ℓ = 1 - IoU + ρ² / c²                                              (eq. 7)

    with ρ the distance of the centres and c the diagonal of the box around both.

    Parameters:
        eps: added to the area of the union and to c², in [0, 1].
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
        Zheng et al., Distance-IoU Loss, 2020, arXiv:1911.08287, eq. 7. Same
        values as MMDetection 3.3.0 `DIoULoss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        own, other = edges(pred), edges(target)
        return 1 - soft_iou(own, other, self.eps) + distance(own, other, self.eps)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CIoULoss(BoxLoss):
    """Complete IoU of boxes: overlap, distance of the centres, and aspect ratio.

    ℓ = 1 - IoU + ρ² / c² + αv, at most 2;  v = 4/π² (atan w'/h' - atan w/h)²
    α = v / (1 - IoU + v) where IoU > 0.5, else 0

    with w, h of pred and w', h' of target; ρ and c as of DIoULoss. No gradient
    goes through α.

    Parameters:
        eps: added to the area of the union, to c² and to heights, in [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
        target: boxes, shaped like pred.
        weight: [N], or [N, 4], whose mean over the last axis counts.

    Returns:
        Unreduced float [N], in [0, 2]. NaN, with a NaN gradient, where the boxes
        are equal and IoU rounds to 1, as upstream: nearly always in float32,
        since α is then 0 / 0. Where no weight is above 0 a scalar,
        Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: eps out of range, pred no boxes, target not shaped like
            pred, or a weight of another shape.

    Source:
        Zheng et al., Enhancing Geometric Factors in Model Learning and Inference
        for Object Detection and Instance Segmentation, 2020, arXiv:2005.03572.
        Same values as MMDetection 3.3.0 `CIoULoss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        own, other = edges(pred), edges(target)
        iou = soft_iou(own, other, self.eps)
        v = 4 / math.pi**2 * (_slant(other, self.eps) - _slant(own, self.eps)).square()
        with torch.no_grad():
            alpha = (iou > 0.5) * v / (1 - iou + v)
        ciou = iou - (distance(own, other, self.eps) + alpha * v)
        return 1 - ciou.clamp(min=-1, max=1)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SIoULoss(BoxLoss):
    """SCYLLA-IoU of boxes: overlap, distance along the axes, and shape.

    ℓ = 1 - IoU + (Δ + Ω) / 2, within [0, 2]
    Δ = Σ 1 - exp(γρ²), over x and y;  γ = Λ - 2;  Λ = sin(2 arcsin s)
    Ω = Σ (1 - exp(-ω))⁴, over w and h;  ω = |w - w'| / max(w, w')

    with ρ the distance of the centres along an axis over the size of the box
    around both, and s the sine of the lesser angle of their line with an axis.

    Parameters:
        neg_gamma: the γ of the paper, above; false is 2 - Λ, upstream's default,
            with which Δ falls as the centres part: a box far off may cost 0.
        eps: added to the area of the union, to the centres' distance along each
            axis and to heights; least size of the box around both. In [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
        target: boxes, shaped like pred.
        weight: [N], or [N, 4], whose mean over the last axis counts.

    Returns:
        Unreduced float [N], in [0, 2]; NaN where neither box has a width, as
        upstream. Where no weight is above 0 a scalar, Σ pred · weight, whatever
        the reduction.

    Raises:
        ValueError: eps out of range, pred no boxes, target not shaped like
            pred, or a weight of another shape.

    Source:
        Gevorgyan, SIoU Loss: More Powerful Learning for Bounding Box Regression,
        2022, arXiv:2205.12740. Same values as MMDetection 3.3.0 `SIoULoss`.
    """

    neg_gamma: bool = False

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        own, other = edges(pred), edges(target)
        cost = self._distance_cost(own, other) + self._shape_cost(own, other)
        siou = soft_iou(own, other, self.eps) - 0.5 * cost
        return 1 - siou.clamp(min=-1, max=1)

    def _distance_cost(self, a: Edges, b: Edges) -> Tensor:
        # Not `apart`: where centres agree the gradient hangs on the rounding, so this is upstream's.
        x, y = ((b[i] + b[i + 2] - a[i] - a[i + 2]) * 0.5 + self.eps for i in (0, 1))
        way = torch.hypot(x, y)
        along_x, along_y = x.abs() / way, y.abs() / way
        sine = torch.where(along_x > math.sqrt(0.5), along_y, along_x)
        angle_cost = torch.sin(2 * torch.asin(sine))
        gamma = angle_cost - 2 if self.neg_gamma else 2 - angle_cost
        width, height = enclosing(a, b, self.eps)
        costs = [1 - torch.exp(gamma * rho.square()) for rho in (x / width, y / height)]
        return costs[0] + costs[1]

    def _shape_cost(self, pred: Edges, target: Edges) -> Tensor:
        costs = [
            (1 - torch.exp(-(a - b).abs() / torch.maximum(a, b))).pow(4)
            for a, b in zip(sides(pred, self.eps), sides(target, self.eps), strict=True)
        ]
        return costs[0] + costs[1]


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class BoundedIoULoss(BoxLoss):
    """Upper bounds of IoU, one for each of a box's centre coordinates and sizes.

    ℓ = smooth L1 of 1 - b, which is b̄² / (2β) where b̄ = 1 - b < β, else b̄ - β/2
    b = max(0, (w' - 2|Δx|) / (w' + 2|Δx| + eps)) of x;  b = min(w/w', w'/w) of w

    and so of y and h; w' is of target, and each divisor w has eps added. No
    gradient goes to target.

    Parameters:
        beta: where the square ends, β > 0.
        eps: added to divisors, in [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: boxes, float [N, 4] or [..., N, 4], as x1, y1, x2, y2 in any unit.
        target: boxes, shaped like pred.
        weight: broadcasts with the loss: [N, 4], [N, 1], a scalar. An [N] weight
            is refused, unless N is 4 and it weighs the four bounds.

    Returns:
        Unreduced float [N, 4]: of x, y, w, h. Where no weight is above 0 a
        scalar, Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: beta or eps out of range, pred no boxes, target not shaped
            like pred, or a weight that does not broadcast.

    Source:
        Tychsen-Smith and Petersson, Improving Object Localization with Fitness
        NMS and Bounded IoU Loss, 2018, arXiv:1711.00164. Same values as
        MMDetection 3.3.0 `BoundedIoULoss`.
    """

    eps: float = 1e-3
    beta: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", "must be above 0", self.beta)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        return super().fit(pred, target)[0], tuple(pred.shape)

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        return weight

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        own, other = edges(pred), edges(target.detach())
        wanted = sides(other)
        bounds = [self._of_centre(*pair) for pair in zip(apart(own, other), wanted, strict=True)]
        bounds += [self._of_side(*pair) for pair in zip(sides(own), wanted, strict=True)]
        short = 1 - torch.stack(bounds, -1)
        return torch.where(
            short < self.beta, 0.5 * short.square() / self.beta, short - 0.5 * self.beta
        )

    def _of_centre(self, away: Tensor, wanted: Tensor) -> Tensor:
        twice = 2 * away.abs()
        bound = (wanted - twice) / (wanted + twice + self.eps)
        return torch.maximum(bound, bound.new_zeros(()))

    def _of_side(self, side: Tensor, wanted: Tensor) -> Tensor:
        return torch.minimum(wanted / (side + self.eps), side / (wanted + self.eps))


def _slant(box: Edges, eps: float) -> Tensor:
    """Angle [...] of the diagonal with the vertical."""
    width, height = sides(box, eps)
    return torch.atan(width / height)
