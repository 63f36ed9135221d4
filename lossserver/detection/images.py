"""The ground truth of a call: one image after the other, checked.

A target is {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas": [{...}, ...],
"gt_bboxes_ignore": [[m, 4], ...] or absent}, a list entry an image. Boxes are x1, y1, x2, y2 in
pixels, and float32 here whatever was sent, as MMDetection's are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.loss import Call, require
from lossserver.registry import RefusedError

KEYS = frozenset({"gt_bboxes", "gt_labels", "img_metas", "gt_bboxes_ignore"})

#: Pixels that a side of an image may have. A meta is a number: it must not be taken for a size of
#: anything that was sent.
MAX_SIDE = 1 << 16

#: Objects of an image. An assigner's time is their product with the priors; LVIS has 294 at most.
MAX_OBJECTS = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One image's objects.

    Attributes:
        boxes: float32 [n, 4].
        labels: int64 [n].
        ignored: float32 [m, 4], regions in which nothing is to be learnt.
        meta: img_shape and so on, as they were sent.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    meta: Mapping[str, Any]

    def size(self, key: str) -> tuple[int, int]:
        """Height and width in pixels, of a key of the meta that was checked."""
        height, width = self.meta[key][:2]
        return int(height), int(width)


def images_of(call: Call, device: torch.device, *, labelled: bool = True) -> list[Image]:
    """The images of a checked call; all labels are 0 where they are not looked at."""
    target = call.inputs["target"]
    boxes = [_boxes(one, device) for one in target["gt_bboxes"]]
    labels = target["gt_labels"] if labelled else [one.new_zeros(len(one)) for one in boxes]
    ignored = target.get("gt_bboxes_ignore") or [one.new_zeros(0, 4) for one in boxes]
    return [
        Image(
            boxes=own,
            labels=label.to(device, torch.int64),
            ignored=_boxes(region, device),
            meta=meta,
        )
        for own, label, region, meta in zip(
            boxes, labels, ignored, target["img_metas"], strict=True
        )
    ]


def _boxes(given: Tensor, device: torch.device) -> Tensor:
    return given.to(device, torch.float32).reshape(-1, 4)


def check_images(
    call: Call, *, classes: int | None, metas: tuple[str, ...] = ("img_shape", "pad_shape")
) -> int:
    """The number of images.

    Parameters:
        call: whose `target` to look at, on the CPU.
        classes: labels must be below it; None if the head has no labels.
        metas: keys that each image's meta must have, [height, width] in pixels each.

    Raises:
        RefusedError: naming the image and the field.
    """
    target = call.inputs["target"]
    if not isinstance(target, Mapping):
        raise RefusedError("target", f"must be a map of {', '.join(sorted(KEYS))}", type(target))
    for unknown in sorted(target.keys() - KEYS):
        raise RefusedError("target", f"the keys are {', '.join(sorted(KEYS))}", unknown)
    boxes = _listed(target, "gt_bboxes", None)
    count = len(boxes)
    require(count > 0, "target.gt_bboxes", "must have an image or more", count)
    for i, one in enumerate(boxes):
        _check_boxes(one, f"target.gt_bboxes[{i}]")
    if target.get("gt_bboxes_ignore") is not None:
        for i, one in enumerate(_listed(target, "gt_bboxes_ignore", count)):
            _check_boxes(one, f"target.gt_bboxes_ignore[{i}]")
    if classes is not None:
        for i, one in enumerate(_listed(target, "gt_labels", count)):
            _check_labels(one, len(boxes[i]), classes, f"target.gt_labels[{i}]")
    for i, meta in enumerate(_listed(target, "img_metas", count)):
        check_meta(meta, metas, f"target.img_metas[{i}]")
    return count


def _listed(target: Mapping[str, Any], key: str, count: int | None) -> list[Any]:
    given = target.get(key)
    if not isinstance(given, list) or (count is not None and len(given) != count):
        rule = "must be a list, an entry an image" + ("" if count is None else f", here {count}")
        said = f"{len(given)} entries" if isinstance(given, list) else type(given).__name__
        raise RefusedError(f"target.{key}", rule, said)
    return given


def _check_boxes(boxes: Any, field: str) -> None:
    require(isinstance(boxes, Tensor), field, "must be one tensor", type(boxes).__name__)
    # An image without boxes may come as an empty list's array, [0].
    fits = tuple(boxes.shape) == (0,) or (boxes.dim() == 2 and boxes.shape[1] == 4)
    require(fits, field, "must be [n, 4]", list(boxes.shape))
    require(len(boxes) <= MAX_OBJECTS, field, f"must be at most {MAX_OBJECTS} boxes", len(boxes))
    require(boxes.dtype is not torch.bool, field, "must hold numbers", "bool")
    flat = boxes.reshape(-1, 4)
    wrong = ((flat[:, 2:] < flat[:, :2]).any(1) | ~flat.float().isfinite().all(1)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        rule = "must be x1, y1, x2, y2, finite, with x1 <= x2 and y1 <= y2"
        raise RefusedError(f"{field}[{row}]", rule, flat[row].tolist())


def _check_labels(labels: Any, count: int, classes: int, field: str) -> None:
    require(isinstance(labels, Tensor), field, "must be one tensor", type(labels).__name__)
    require(labels.shape == (count,), field, f"must be [{count}], one a box", list(labels.shape))
    integer = not labels.is_floating_point() and labels.dtype is not torch.bool
    require(integer or not count, field, "class indices must be of an integer type", labels.dtype)
    wide = labels.long()  # a narrow integer would wrap the number of classes
    outside = wide[(wide < 0) | (wide >= classes)]
    rule = f"a class index must be in 0..{classes - 1}"
    require(not len(outside), field, rule, int(outside[0]) if len(outside) else None)


def check_meta(meta: Any, keys: tuple[str, ...], field: str) -> None:
    """Refuse a meta that lacks a size, or has none that an image can have."""
    require(isinstance(meta, Mapping), field, "must be a map", type(meta).__name__)
    for key in keys:
        given = meta.get(key)
        fits = (
            isinstance(given, list)
            and len(given) >= 2
            and all(type(side) in (int, float) and 1 <= side <= MAX_SIDE for side in given[:2])
        )
        rule = f"must be [height, width] in pixels, each in 1..{MAX_SIDE}"
        require(fits, f"{field}.{key}", rule, given)
