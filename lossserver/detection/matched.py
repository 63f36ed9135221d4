"""Queries and the objects that they are matched with, as DETR and its kin learn them.

A query's box is centre, width and height, as shares of its image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lossserver.detection.assigned import NEGATIVE, Assigner, Predicted
from lossserver.detection.coders import around, centres
from lossserver.detection.images import Image
from lossserver.losses.boxes import sizes


class Matched(NamedTuple):
    """What the queries shall be, those of one image after the other.

    Attributes:
        positive: bool [B · Q], whether it is matched with an object.
        labels: int64 [B · Q], of its object; C where there is none.
        boxes: float32 [B · Q, 4], of its object, as they are predicted; 0 where there is none.
    """

    positive: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def match(
    assigner: Assigner,
    scores: Tensor,
    boxes: Tensor,
    images: list[Image],
    pixels: Tensor,
    background: int,
) -> Matched:
    """What the queries of a batch shall be.

    Parameters:
        assigner: one that looks at scores and boxes in pixels.
        scores: [B, Q, ...].
        boxes: [B, Q, 4], shares.
        images: their objects.
        pixels: float32 [B, 1, 4], width and height of each image, twice.
        background: the label of a query without an object.
    """
    found, starts, start = [], [], 0
    for image, own, corners in zip(images, scores, corners_of(boxes) * pixels, strict=True):
        predicted = Predicted(scores=own, boxes=corners)
        found.append(assigner.assign(corners, image, predicted=predicted).gt_inds)
        starts.append(start)
        start += len(image.labels)
    objects = torch.stack(found)
    positive = objects > NEGATIVE
    # A query without an object has one all the same, after all others, that is nothing.
    index = objects - 1 + torch.tensor(starts, device=objects.device).unsqueeze(1)
    index = index.masked_fill(~positive, start).flatten()
    shares = [image.boxes / size for image, size in zip(images, pixels, strict=True)]
    every = torch.cat([torch.cat((centres(one), sizes(one)), 1) for one in shares])
    labels = torch.cat([image.labels for image in images])
    return Matched(
        positive=positive.flatten(),
        labels=torch.cat([labels, labels.new_full((1,), background)])[index],
        boxes=torch.cat([every, every.new_zeros(1, 4)])[index],
    )


def corners_of(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 of boxes [..., 4] given as centre and size."""
    return around(boxes[..., :2], boxes[..., 2:] / 2)
