"""The priors of all images that have an object, found at once: a device is waited for only here."""

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from lossserver.detection.assigned import NEGATIVE
from lossserver.detection.images import Image
from lossserver.losses.loss import Loss
from lossserver.losses.rows import RowwiseLoss


class Positives(NamedTuple):
    """The P priors of all images that have an object, image by image.

    Attributes:
        images: int64 [P], whose they are.
        places: int64 [P], which prior of their image.
        boxes: float32 [P, 4], of their objects.
        labels: int64 [P], of their objects.
    """

    images: Tensor
    places: Tensor
    boxes: Tensor
    labels: Tensor


def positives_of(objects: Tensor, images: Sequence[Image]) -> Positives:
    """The priors that have an object.

    Parameters:
        objects: int64 [B, A], each prior's object as `Assigned.gt_inds` has it.
        images: B.
    """
    of_image, place = (objects > NEGATIVE).nonzero(as_tuple=True)
    counts = torch.tensor([len(image.labels) for image in images], device=objects.device)
    # An object's number among the objects of all images.
    index = (counts.cumsum(0) - counts)[of_image] + objects[of_image, place] - 1
    return Positives(
        images=of_image,
        places=place,
        boxes=torch.cat([image.boxes for image in images])[index],
        labels=torch.cat([image.labels for image in images])[index],
    )


def is_elementwise(loss: Loss, like: Tensor) -> TypeGuard[RowwiseLoss]:
    """Whether a sum or mean of the loss over some elements of `like` needs only these elements."""
    return (
        isinstance(loss, RowwiseLoss)
        and loss.fit(pred=like, target=like)[1] == tuple(like.shape)
        and loss.reduction in ("mean", "sum")
        and loss.own_avg_factor({"target": like}, tuple(like.shape)) is None
    )
