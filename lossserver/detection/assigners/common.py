"""What assigners share: their overlap, what they return and must be told, and who wins a prior."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossserver.detection.assigned import Assigned, Assigner, Predicted
from lossserver.detection.assigners.pairs import BboxOverlaps2D
from lossserver.detection.head import default
from lossserver.detection.images import Image
from lossserver.detection.parts import CALCULATORS
from lossserver.losses.boxes import sizes
from lossserver.losses.loss import require
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True)
class OverlapAssigner(Assigner):
    """An assigner that compares boxes.

    Parameters:
        iou_calculator: config of the overlap.
    """

    iou_calculator: dict[str, Any] = default(type="BboxOverlaps2D")

    def __post_init__(self) -> None:
        _ = self.calculator  # a config that no overlap can be built from is refused now

    @cached_property
    def calculator(self) -> BboxOverlaps2D:
        """The overlap."""
        found: BboxOverlaps2D = CALCULATORS.part(self.iou_calculator, "iou_calculator")
        return found


def rows_of(priors: Tensor, columns: int) -> Tensor:
    """The priors as float32 [n, columns], less what they have beyond."""
    fits = priors.dim() == 2 and priors.shape[1] >= columns
    require(fits, "priors", f"must be [n, {columns}]", list(priors.shape))
    return priors[:, :columns].float()


def background(priors: Tensor, *, overlaps: bool = True) -> Assigned:
    """No prior has an object, where there is none or no prior."""
    return Assigned(
        gt_inds=priors.new_zeros(len(priors), dtype=torch.int64),
        overlaps=priors.new_zeros(len(priors), dtype=torch.float32) if overlaps else None,
        labels=priors.new_full((len(priors),), -1, dtype=torch.int64),
    )


def labels_of(gt_inds: Tensor, image: Image) -> Tensor:
    """The class of each prior's object, -1 where it has none; of an image with objects."""
    return torch.where(gt_inds > 0, image.labels[(gt_inds - 1).clamp(min=0)], -1)


def scores_of(predicted: Predicted | None, count: int, image: Image) -> Tensor:
    """The predicted scores, float32 [n, C], with a column for every label of the image.

    Raises:
        RefusedError: they were not given, or are not as many.
    """
    scores = _told(predicted.scores if predicted else None, "pred.scores")
    fits = scores.dim() == 2 and len(scores) == count
    require(fits, "pred.scores", f"must be [{count}, C], one a prior", list(scores.shape))
    classes = scores.shape[1]
    # Indexing would raise, on a GPU for the whole process.
    beyond = len(image.labels) > 0 and int(image.labels.max()) >= classes
    require(not beyond, "pred.scores", "must have a column for every label", list(scores.shape))
    return scores.float()


def boxes_of(predicted: Predicted | None, count: int) -> Tensor:
    """The predicted boxes, float32 [n, 4].

    Raises:
        RefusedError: they were not given, or are not as many.
    """
    boxes = _told(predicted.boxes if predicted else None, "pred.bboxes")
    fits = tuple(boxes.shape) == (count, 4)
    require(fits, "pred.bboxes", f"must be [{count}, 4], one a prior", list(boxes.shape))
    return boxes.float()


def responsible_of(predicted: Predicted | None, count: int) -> Tensor:
    """Which priors are of cells with an object's centre, bool [n].

    Raises:
        RefusedError: it was not given, or is not as much.
    """
    flags = _told(predicted.responsible if predicted else None, "pred.responsible")
    fits = tuple(flags.shape) == (count,)
    require(fits, "pred.responsible", f"must be [{count}], one a prior", list(flags.shape))
    return flags.bool()


def _told(given: Tensor | None, field: str) -> Tensor:
    if given is None:
        raise RefusedError(field, "the assigner needs it", "nothing")
    return given


def centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The x and y [...] of the centres of boxes [..., 4]."""
    left, top, right, bottom = boxes.unbind(-1)
    return (left + right) / 2, (top + bottom) / 2


def with_sides(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] as the x and y of their centres, width and height."""
    return torch.cat([torch.stack(centres(boxes), -1), sizes(boxes)], -1)


def inside(x: Tensor, y: Tensor, boxes: Tensor, margin: float) -> Tensor:
    """Whether points are in boxes [..., 4] that they broadcast with, over that far from every side."""
    left, top, right, bottom = boxes.unbind(-1)
    across = (x - left > margin) & (right - x > margin)
    return across & (y - top > margin) & (bottom - y > margin)


def won(
    count: int, priors: Tensor, objects: Tensor, scores: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    """Each prior's largest score, and k + 1 for the first object k that has it there; [n] each.

    Parameters:
        count: n.
        priors: int64, of candidate pairs.
        objects: int64, likewise.
        scores: of each pair; `floor` for one that does not count.
        floor: the score of a prior without a pair that counts, for which the object is 0.
    """
    best = scores.new_full((count,), floor)
    best = best.scatter_reduce(0, priors, scores, "amax")
    wins = (scores == best[priors]) & (scores > floor)
    none = torch.iinfo(torch.int64).max
    first = objects.new_full((count,), none)
    first = first.scatter_reduce(0, priors, torch.where(wins, objects, none), "amin")
    return best, torch.where(first == none, 0, first + 1)
