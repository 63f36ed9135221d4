"""What heads of key points share: objects of a batch in cells of its map, and counts of peaks."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.detection.images import images_of
from lossserver.losses.cotangent import EPS
from lossserver.losses.loss import Call
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The n objects of all images, one image after the other.

    Attributes:
        boxes: float32 [n, 4], in pixels.
        labels: int64 [n].
        images: int64 [n], which image each is in.
        scale: float32 [4], cells a pixel, for each of a box's coordinates.
        counts: how many each image has.
    """

    boxes: Tensor
    labels: Tensor
    images: Tensor
    scale: Tensor
    counts: list[int]

    def refuse(self, wrong: Tensor, rule: str) -> None:
        """Refuse the first of those objects, bool [n], that break the rule."""
        if not wrong.any():
            return
        at = int(wrong.nonzero()[0])
        image = int(self.images[at])
        field = f"target.gt_bboxes[{image}][{at - sum(self.counts[:image])}]"
        raise RefusedError(field, rule, self.boxes[at].tolist())


def input_key(call: Call) -> str:
    """The key of a meta that has the size of the network's input, of a call not checked yet.

    MMDetection 3 calls it batch_input_shape. Version 2 had no such key everywhere, and its
    heads read pad_shape.
    """
    target = call.inputs["target"]
    metas = target.get("img_metas") if isinstance(target, Mapping) else None
    first = metas[0] if isinstance(metas, list) and metas else None
    keys = first.keys() if isinstance(first, Mapping) else ()
    old = "pad_shape" in keys and "batch_input_shape" not in keys
    return "pad_shape" if old else "batch_input_shape"


def objects_of(call: Call, size: tuple[int, int], device: torch.device) -> Objects:
    """The objects of a call whose target is checked.

    Parameters:
        call: the first image's meta has the size of the input, for all of them.
        size: height and width of the map, in cells.
        device: where to.
    """
    images = images_of(call, device)
    counts = [len(image.labels) for image in images]
    tall, wide = images[0].meta[input_key(call)][:2]
    rows, columns = size
    return Objects(
        boxes=torch.cat([image.boxes for image in images]),
        labels=torch.cat([image.labels for image in images]),
        images=torch.arange(len(images)).repeat_interleave(torch.tensor(counts)).to(device),
        scale=torch.tensor([columns / wide, rows / tall] * 2, device=device),
        counts=counts,
    )


def averaged(count: float, *, elements: int = 1) -> float:
    """The avg_factor of a mean over so many peaks, at least 1, each of so many elements.

    Upstream's count of 2 or more is a tensor, and adding EPS to it is rounded off.
    """
    return elements * count - EPS if count > 1 else float(elements)
