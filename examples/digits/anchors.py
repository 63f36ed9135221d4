"""Anchors: boxes of a few sizes at every place of two grids, and boxes as seen from them.

A level is a grid of G x G places, STRIDE pixels apart; place (i, j) is the pixel
(j · STRIDE, i · STRIDE). There are A anchors around each. The order of all anchors
is by level, then by row, column and shape, and the rows of predictions have it, too.

Written from the papers, in another way than the server's, and sharing no code with
it. A box is (x1, y1, x2, y2) in pixels.
"""

import torch
from torch import Tensor

from examples.digits.canvases import CANVAS

#: Pixels from place to place, of each level, and places along the side of a canvas.
STRIDES = (4, 8)
GRIDS = tuple(CANVAS // stride for stride in STRIDES)

#: Side of the square anchor, of each level, in pixels: digits are 6 to 16 wide and 12 to 16 high.
SIDES = (10.0, 12.5)

#: Heights over widths. With 1.25² every side is a short binary number (8 x 12.5, 10 x 15.625), so
#: that float32 has every overlap exactly but for its one division: what ties here ties anywhere.
RATIOS = (1.0, 1.5625)

#: What a network is to predict is divided by these, so that it is about 1.
STDS = (0.1, 0.1, 0.2, 0.2)


def all_anchors() -> Tensor:
    """The anchors of a canvas, of all levels, float32 [n, 4]."""
    return torch.tensor(
        [
            (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
            for stride, grid, side in zip(STRIDES, GRIDS, SIDES, strict=True)
            for y in range(0, grid * stride, stride)
            for x in range(0, grid * stride, stride)
            for wide, high in ((side / ratio**0.5, side * ratio**0.5) for ratio in RATIOS)
        ]
    )


def rows(levels: list[Tensor], channels: int) -> Tensor:
    """Maps [B, A · channels, G, G], one a level, as rows [B, n, channels], an anchor each."""
    return torch.cat(
        [
            level.unflatten(1, (len(RATIOS), channels)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for level in levels
        ],
        1,
    )


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """What is to be predicted for anchors [..., 4] and their boxes [..., 4].

    The way from centre to centre in sides of the anchor, and the logarithm of how
    much larger the box is; Girshick et al., 2014, arXiv:1311.2524, appendix C.
    """
    (centre, size), (own, extent) = _middle(boxes), _middle(anchors)
    return torch.cat([(centre - own) / extent, (size / extent).log()], -1) / torch.tensor(STDS)


def decode(anchors: Tensor, predicted: Tensor) -> Tensor:
    """Boxes [..., n, 4] in pixels that predictions [..., n, 4] for anchors [n, 4] mean."""
    way, growth = (predicted * torch.tensor(STDS)).split(2, -1)
    own, extent = _middle(anchors)
    centre, half = own + way * extent, growth.exp() * extent / 2
    return torch.cat([centre - half, centre + half], -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [..., n, m] of boxes [..., n, 4] and [..., m, 4]."""
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (a, b))
    return shared / (area_a + area_b - shared)


def _middle(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes."""
    low, high = boxes.split(2, -1)
    return (low + high) / 2, high - low
