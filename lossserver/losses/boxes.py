"""Boxes [..., 4] as x1, y1, x2, y2: sizes, areas and overlaps, and what the losses of boxes share.

Boxes are compared where they are aligned, so broadcasting makes pairs of them:

    iou(a, b)               [N, 4], [N, 4] → [N]
    iou(a[:, None], b)      [N, 4], [M, 4] → [N, M]

Who makes pairs refuses too many of them first (`refuse_pairs`). Where two edges
coincide, each box gets half of the gradient, as upstream.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.loss import Call, require
from lossserver.losses.rows import Rows
from lossserver.losses.shortcut import ShortCut
from lossserver.registry import RefusedError

#: x1, y1, x2 and y2, a tensor each.
Edges = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class BoxLoss(ShortCut):
    """A loss of predicted boxes and their targets, one number a box.

    Parameters:
        eps: keeps a division or a logarithm finite, in [0, 1].
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        # Not only sense: torch raises where a bound does not fit a float32.
        require(0 <= self.eps <= 1, "eps", "must be in [0, 1]", self.eps)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        if pred.dim() < 2 or pred.shape[-1] != 4:
            raise RefusedError("pred", "must be boxes [N, 4]", list(pred.shape))
        target = target if target.is_floating_point() else target.float()
        inputs, shape = super().fit(pred=pred, target=target)
        return inputs, shape[:-1]

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        if weight.dim() < 2:
            return weight
        if weight.shape != inputs["pred"].shape:
            raise RefusedError(
                "weight",
                f"must be [N], or shaped like pred, {list(inputs['pred'].shape)}",
                list(weight.shape),
            )
        # At least float32, like all else: a mean of halves would round twice.
        return weight.to(torch.promote_types(weight.dtype, torch.float32)).mean(-1)

    def rows(self, call: Call) -> Rows | None:
        rows = super().rows(call)
        if rows is None or rows.weight is None or "weight" not in call.wrt:
            return rows
        # A batch knows the gradient of a box's weight, and not that of the four it is the mean of.
        assert rows.cotangent.weight is not None  # noqa: S101  (it was made of rows.weight)
        return rows if rows.weight.shape == rows.cotangent.weight.shape else None


def sizes(boxes: Tensor) -> Tensor:
    """Width and height [..., 2] of boxes [..., 4]; negative where corners are swapped."""
    return boxes[..., 2:] - boxes[..., :2]


def areas(sizes: Tensor) -> Tensor:
    """Width times height [...] of sizes [..., 2]."""
    width, height = sizes.unbind(-1)
    return width * height


def edges(boxes: Tensor) -> Edges:
    """x1, y1, x2 and y2 [...] of boxes [..., 4].

    A formula splits its boxes once. Each slice of a tensor gives it one more
    gradient, a whole tensor of mostly 0, to be added up in eager torch, and in a
    fused kernel a case that its every element asks about.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x1, y1, x2, y2


def sides(box: Edges, eps: float = 0.0) -> tuple[Tensor, Tensor]:
    """Width and height [...], negative where edges are swapped; eps is added to the height alone."""
    x1, y1, x2, y2 = box
    return x2 - x1, y2 - y1 + eps if eps else y2 - y1


def area(box: Edges) -> Tensor:
    """Area [...]; negative where one pair of edges is swapped."""
    width, height = sides(box)
    return width * height


def apart(a: Edges, b: Edges) -> tuple[Tensor, Tensor]:
    """The way [...] from the centre of a to that of b, along x and along y."""
    # Sums first: of equal boxes it is exactly 0.
    return (
        ((b[0] + b[2]) - (a[0] + a[2])) * 0.5,
        ((b[1] + b[3]) - (a[1] + a[3])) * 0.5,
    )


def overlap_and_union(a: Edges, b: Edges) -> tuple[Tensor, Tensor]:
    """The areas [...] that both boxes cover, and that at least one does."""
    width = torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])
    height = torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    return overlap, area(a) + area(b) - overlap


def enclosing(a: Edges, b: Edges, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Width and height [...] of the smallest box around both, no less than `least`."""
    width = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    height = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    return width.clamp(min=least), height.clamp(min=least)


def iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over union, the union being no less than eps."""
    overlap, union = overlap_and_union(edges(a), edges(b))
    return overlap / at_least(union, eps)


def soft_iou(a: Edges, b: Edges, eps: float) -> Tensor:
    """Intersection over union, eps being added to the union."""
    overlap, union = overlap_and_union(a, b)
    return overlap / (union + eps)


def distance(a: Edges, b: Edges, eps: float) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the box around both."""
    width, height = enclosing(a, b)
    x, y = apart(a, b)
    return (x.square() + y.square()) / (width.square() + height.square() + eps)


def iof(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Intersection over foreground, the area of `a`, it being no less than eps."""
    own = edges(a)
    overlap, _ = overlap_and_union(own, edges(b))
    return overlap / at_least(area(own), eps)


def giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU less the share of the enclosing box that neither covers; neither area less than eps."""
    own, other = edges(a), edges(b)
    overlap, union = overlap_and_union(own, other)
    width, height = enclosing(own, other)
    union, around = at_least(union, eps), at_least(width * height, eps)
    return overlap / union - (around - union) / around


def at_least(areas: Tensor, eps: float) -> Tensor:
    """The areas, but no less than eps; half of the gradient where they are eps, unlike clamp."""
    return torch.maximum(areas, areas.new_full((), eps))
