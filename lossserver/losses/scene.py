"""What a set loss reads: queries of a batch of images, and the objects in them."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lossserver.losses.allowance import with_others
from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import Call, floating, refuse_pairs, require
from lossserver.registry import RefusedError

T = TypeVar("T")

#: Steps that matching may take: 2,048 queries with as many objects. At the worst they are eight
#: seconds of one core, for costs as they come half a second.
MAX_STEPS = 1 << 33


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The fitted inputs of a batch of B images, with Q queries each and T objects in all.

    Attributes:
        logits: [B, Q, C + 1].
        boxes: [B, Q, 4].
        labels: [T], int64.
        targets: [T, 4], boxes of the objects.
        counts: objects of each image.
        image: [T], int64, the image of each object.
    """

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    targets: Tensor
    counts: list[int]
    image: Tensor


def parts_of(call: Call, name: str, parts: tuple[str, ...], kind: type[T]) -> dict[str, T]:
    """The parts of an input, which must be a map of exactly these, each of that kind."""
    given, wanted = call.inputs[name], "a tensor" if kind is Tensor else "a list of tensors"
    rule = f"must be a map of {' and '.join(parts)}"
    require(isinstance(given, dict), name, rule, type(given).__name__)
    require(given.keys() == set(parts), name, rule, sorted(given))
    for part, value in given.items():
        require(
            isinstance(value, kind), f"{name}.{part}", f"must be {wanted}", type(value).__name__
        )
    return {part: given[part] for part in parts}


def scene_of(call: Call) -> Scene:
    """The inputs of a call, checked.

    Raises:
        RefusedError: they do not fit.
    """
    pred = parts_of(call, "pred", ("logits", "boxes"), Tensor)
    target = parts_of(call, "target", ("labels", "boxes"), list)
    logits, boxes = (floating(pred[name], f"pred.{name}") for name in ("logits", "boxes"))
    rule = "must be [B, Q, C + 1]"
    require(logits.dim() == 3 and logits.shape[2] > 0, "pred.logits", rule, list(logits.shape))
    shape = [*logits.shape[:2], 4]
    require(list(boxes.shape) == shape, "pred.boxes", f"must be {shape}", list(boxes.shape))
    for name, each in target.items():
        rule = f"must have a tensor for each of {shape[0]} images"
        require(len(each) == shape[0], f"target.{name}", rule, len(each))
    images = zip(target["labels"], target["boxes"], strict=True)
    found = [fit_image(i, *one) for i, one in enumerate(images)]
    counts = [len(labels) for labels, _ in found]
    refuse_size(counts, shape[1])
    labels = torch.cat([logits.new_zeros(0, dtype=torch.int64), *(one for one, _ in found)])
    most = logits.shape[2] - 2
    refuse_outside(labels, 0, most, f"in 0..{most}")
    return Scene(
        logits=logits,
        boxes=boxes,
        labels=labels,
        targets=torch.cat([boxes.new_zeros(0, 4), *(one for _, one in found)]),
        counts=counts,
        image=torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64)).to(logits.device),
    )


def fit_image(i: int, labels: Any, boxes: Any) -> tuple[Tensor, Tensor]:
    """The labels and boxes of the objects of image i."""
    for name, one in (("labels", labels), ("boxes", boxes)):
        if not isinstance(one, Tensor):
            raise RefusedError(f"target.{name}[{i}]", "must be a tensor", type(one).__name__)
    floating(boxes, f"target.boxes[{i}]")
    require(labels.dim() == 1, f"target.labels[{i}]", "must be [n]", list(labels.shape))
    shape = [len(labels), 4]
    require(list(boxes.shape) == shape, f"target.boxes[{i}]", f"must be {shape}", list(boxes.shape))
    # No labels may be of any type: of an empty list torch makes floats.
    return labels_of(labels) if len(labels) else labels.long(), boxes


def refuse_size(counts: list[int], queries: int) -> None:
    """Refuse so many objects and queries that to match them would take too much memory or time."""
    refuse_pairs(4 * queries * sum(counts), "coordinates of queries and objects")
    steps = with_others(sum(min(n, queries) ** 2 * max(n, queries) for n in counts), "steps")
    rule = f"must not take over {MAX_STEPS} steps to match; send fewer objects"
    require(steps <= MAX_STEPS, "target", rule, steps)
