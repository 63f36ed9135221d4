"""A one-stage detector without anchors: each cell of a grid answers for itself.

The canvas is cut into cells of 4x4 pixels. The cell that holds the centre of a
digit is to say which digit it is and where its box lies; every other cell is
background. So B canvases give N = B·G·G rows of predictions, and all that a
trainer needs besides are the losses.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.digits.canvases import CANVAS, CLASSES, Canvases

#: Pixels along the side of a cell, and cells along the side of a canvas.
STRIDE = 4
GRID = CANVAS // STRIDE

#: Pixels that a box is measured against, about the size of a digit.
TYPICAL = 12.0

#: What every cell predicts for every digit before it has learnt anything. Most cells are
#: background, and a start at 0.5 would spend the first steps on learning that (Lin et al., 2017,
#: section 3.3).
PRIOR = 0.01


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the cells of B canvases are to say.

    Attributes:
        labels: int64 [B, G·G], the digit; 10 is background.
        offsets: float32 [B, G·G, 4], as `Detector` predicts them; 0 for background.
    """

    labels: Tensor
    offsets: Tensor


class Detector(nn.Module):
    """Five convolutions and two heads; sees about 40 pixels around each cell.

    SiLU and not ReLU, and heads that start near 0: kinks and large first steps
    are what blows a rounding difference up, and here two runs are compared.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, width // 2, stride=2),
            *_block(width // 2, width, stride=1),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width, stride=1),
            *_block(2 * width, 2 * width, stride=1),
        )
        self.scores = nn.Conv2d(2 * width, CLASSES, 1)
        self.offsets = nn.Conv2d(2 * width, 4, 1)
        for head in (self.scores, self.offsets):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.scores.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (logits) [B, G·G, 10] and offsets [B, G·G, 4] of images [B, 1, S, S].

        Offsets are the centre of the box from the centre of the cell, in
        strides, and log width and log height over the typical size.
        """
        features = self.trunk(images)
        return self.scores(features).flatten(2).mT, self.offsets(features).flatten(2).mT


def assign(canvases: Canvases) -> Targets:
    """What each cell should say: a digit belongs to the cell that holds its centre."""
    count = len(canvases)
    labels = torch.full((count, GRID * GRID), CLASSES)
    offsets = torch.zeros(count, GRID * GRID, 4)
    canvas, slot = torch.nonzero(canvases.labels >= 0, as_tuple=True)
    boxes = canvases.boxes[canvas, slot]
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    column, row = (centre / STRIDE).long().unbind(1)
    cell = row * GRID + column
    labels[canvas, cell] = canvases.labels[canvas, slot]
    offsets[canvas, cell] = torch.cat(
        [(centre - _centres()[cell]) / STRIDE, (size / TYPICAL).log()], 1
    )
    return Targets(labels=labels, offsets=offsets)


def boxes_of(offsets: Tensor) -> Tensor:
    """Boxes in pixels, float32 [..., G·G, 4], of predicted offsets shaped alike."""
    centre = _centres() + offsets[..., :2] * STRIDE
    half = offsets[..., 2:].exp() * TYPICAL / 2
    return torch.cat([centre - half, centre + half], -1)


def _centres() -> Tensor:
    """Centres of the cells, [G·G, 2] as (x, y) in pixels, row by row."""
    along = (torch.arange(GRID) + 0.5) * STRIDE
    return torch.cartesian_prod(along, along).flip(1)


def _block(inputs: int, outputs: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )
