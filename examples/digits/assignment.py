"""Which digit each anchor is for: the assignment by overlap, by hand.

An anchor is for the digit that it overlaps most, if that is by POSITIVE or more; it
is background below NEGATIVE, and in between it takes no part. At last each digit
takes the anchors that overlap it most, however little that is; Ren et al., 2015,
arXiv:1506.01497, section 3.1.2. The server has the same as MaxIoUAssigner.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.digits.anchors import all_anchors, encode, iou
from examples.digits.canvases import CLASSES, Canvases

POSITIVE, NEGATIVE = 0.5, 0.4


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the n anchors of B canvases are to say.

    Attributes:
        labels: int64 [B, n], the digit; 10 is background.
        counted: bool [B, n], which take part.
        deltas: float32 [B, n, 4], as `anchors.encode` gives them; 0 for background.
    """

    labels: Tensor
    counted: Tensor
    deltas: Tensor


def assign(canvases: Canvases) -> Targets:
    """The targets of all anchors of the canvases."""
    anchors = all_anchors()
    there = canvases.labels >= 0
    overlaps = iou(anchors, canvases.boxes).where(there[:, None], -1.0)
    most, owner = overlaps.max(2)
    owner = owner.where(most >= POSITIVE, -1)
    for slot in range(there.shape[1]):
        own = overlaps[:, :, slot]
        best = (own == own.amax(1, keepdim=True)) & there[:, slot, None]
        owner = owner.where(~best, slot)
    canvas, anchor = (owner >= 0).nonzero(as_tuple=True)
    slot = owner[canvas, anchor]
    labels = torch.full(owner.shape, CLASSES)
    labels[canvas, anchor] = canvases.labels[canvas, slot]
    deltas = torch.zeros(*owner.shape, 4)
    deltas[canvas, anchor] = encode(anchors[anchor], canvases.boxes[canvas, slot])
    return Targets(labels=labels, counted=(owner >= 0) | (most < NEGATIVE), deltas=deltas)
