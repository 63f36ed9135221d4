"""A small one-stage detector: for every anchor, which digit it is for and where that lies.

Two levels of features, 4 and 8 pixels from place to place, and the same two heads
on both. What it gives is what MMDetection's RetinaHead takes.
"""

import math

from torch import Tensor, nn

from examples.digits.anchors import RATIOS
from examples.digits.canvases import CLASSES

#: What every anchor predicts for every digit before it has learnt anything. Most are background,
#: and a start at 0.5 would spend the first steps on learning that (Lin et al., 2017, section 3.3).
PRIOR = 0.01

#: "cls_scores" (logits) and "bbox_preds": a list with a map [B, A · channels, G, G] a level each.
Maps = dict[str, list[Tensor]]


class Detector(nn.Module):
    """Six convolutions and two heads; sees about 40 pixels around each place, or 60.

    SiLU and not ReLU, and heads that start near 0: kinks and large first steps
    are what blows a rounding difference up, and here two runs are compared.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.near = nn.Sequential(
            *_block(1, width // 2, stride=2),
            *_block(width // 2, width, stride=1),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 2 * width, stride=1),
            *_block(2 * width, 2 * width, stride=1),
        )
        self.far = nn.Sequential(*_block(2 * width, 2 * width, stride=2))
        self.scores = nn.Conv2d(2 * width, len(RATIOS) * CLASSES, 1)
        self.deltas = nn.Conv2d(2 * width, len(RATIOS) * 4, 1)
        for head in (self.scores, self.deltas):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.scores.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, images: Tensor) -> Maps:
        """The maps of images [B, 1, S, S]; deltas are those of `anchors.encode`."""
        near = self.near(images)
        levels = [near, self.far(near)]
        return {
            "cls_scores": [self.scores(level) for level in levels],
            "bbox_preds": [self.deltas(level) for level in levels],
        }


def _block(inputs: int, outputs: int, *, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )
