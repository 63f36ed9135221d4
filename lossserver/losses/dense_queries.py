"""Dense queries of an image, of which each object gets several: which ones, and how good they are."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.assignment import assignment
from lossserver.losses.boxes import giou, iou
from lossserver.losses.classes import labels_of, refuse_no_probability, refuse_outside
from lossserver.losses.loss import Call, floating, require
from lossserver.losses.scene import parts_of
from lossserver.registry import RefusedError

#: What upstream adds to a divisor, and to a probability before its logarithm.
LEAST_QUALITY, LEAST_PROBABILITY = 1e-7, 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One image, with Q queries and G objects.

    Attributes:
        scores: probabilities [Q, C].
        boxes: [Q, 4], in pixels.
        labels: [G], int64.
        objects: their boxes [G, 4], in pixels.
        height: in pixels.
        width: in pixels.
    """

    scores: Tensor
    boxes: Tensor
    labels: Tensor
    objects: Tensor
    height: float
    width: float

    def copies(self, most: int) -> int:
        """How many queries each object gets, if there are enough for all, but no more than that."""
        return max(1, min(most, len(self.scores) // max(1, len(self.labels))))


def images_of(call: Call) -> list[Image]:
    """The images of a call, checked.

    Raises:
        RefusedError: the inputs do not fit.
    """
    pred = parts_of(call, "pred", ("cls_scores", "bbox_preds"), Tensor)
    target = parts_of(call, "target", ("gt_bboxes", "gt_labels", "img_metas"), list)
    scores, boxes = (floating(given, f"pred.{name}") for name, given in pred.items())
    rule, given = "must be [B, Q, C]", list(scores.shape)
    require(scores.dim() == 3, "pred.cls_scores", rule, given)
    refuse_no_probability(scores, "pred.cls_scores")
    shape = [*scores.shape[:2], 4]
    require(list(boxes.shape) == shape, "pred.bbox_preds", f"must be {shape}", list(boxes.shape))
    for name, each in target.items():
        rule = f"must have one for each of {shape[0]} images"
        require(len(each) == shape[0], f"target.{name}", rule, len(each))
    columns = zip(scores, boxes, *target.values(), strict=True)
    return [_image(i, *column) for i, column in enumerate(columns)]


def _image(i: int, scores: Tensor, boxes: Tensor, objects: Any, labels: Any, meta: Any) -> Image:
    for name, one in (("gt_bboxes", objects), ("gt_labels", labels)):
        holds = isinstance(one, Tensor)
        require(holds, f"target.{name}[{i}]", "must be a tensor", type(one).__name__)
    floating(objects, f"target.gt_bboxes[{i}]")
    require(labels.dim() == 1, f"target.gt_labels[{i}]", "must be [G]", list(labels.shape))
    shape, given = [len(labels), 4], list(objects.shape)
    require(given == shape, f"target.gt_bboxes[{i}]", f"must be {shape}", given)
    # No labels may be of any type: of an empty list torch makes floats.
    labels = labels_of(labels) if len(labels) else labels.long()
    refuse_outside(labels, 0, scores.shape[1] - 1, f"in 0..{scores.shape[1] - 1}")
    size = meta.get("img_shape") if isinstance(meta, dict) else None
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(map(_is_side, size)):
        raise RefusedError(
            f"target.img_metas[{i}]",
            "must have an img_shape, height and width above 0",
            "nothing" if size is None else size,
        )
    height, width = size
    return Image(
        scores=scores, boxes=boxes, labels=labels, objects=objects, height=height, width=width
    )


def _is_side(given: Any) -> bool:
    return isinstance(given, int | float) and 0 < given < math.inf


@torch.no_grad()
def matched(image: Image, most: int) -> tuple[Tensor, Tensor]:
    """Queries and their objects, of least total cost. Done on the CPU: this waits for the device."""
    copies = image.copies(most)
    queries, taken = assignment(_costs(image).cpu().repeat_interleave(copies, 1))
    return queries.to(image.boxes.device), (taken // copies).to(image.boxes.device)


@torch.no_grad()
def qualities(image: Image, queries: Tensor, objects: Tensor) -> Tensor:
    """How well each matched query fits, in [0, 1]: the best of an object as well as it overlaps."""
    overlaps = iou(image.boxes[queries], image.objects[objects])
    aligned = image.scores[queries, image.labels[objects]] * overlaps**6
    best_overlap, best_aligned = (
        found.new_zeros(len(image.labels)).scatter_reduce(0, objects, found, "amax")
        for found in (overlaps, aligned)
    )
    relative = aligned / (best_aligned[objects] + LEAST_QUALITY)
    # Rounding alone could make it more than 1.
    return (relative * best_overlap[objects]).clamp(max=1)


def _costs(image: Image) -> Tensor:
    """[Q, G]: of matching each query with each object."""
    # Upstream takes the probability for a logit.
    p = image.scores.sigmoid()[:, image.labels]
    missed = -0.25 * (1 - p).square() * (p + LEAST_PROBABILITY).log()
    found = -0.75 * p.square() * (1 - p + LEAST_PROBABILITY).log()
    sides = image.boxes.new_tensor([image.width, image.height] * 2)
    distance = torch.cdist(image.boxes / sides, image.objects / sides, p=1)
    return 2 * (missed - found) + 5 * distance - 2 * giou(image.boxes[:, None], image.objects)
