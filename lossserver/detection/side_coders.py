"""Box coders of the ways from a prior's centre, or a point, to the four sides of a box.

Source: MMDetection 3.3.0, `mmdet/models/task_modules/coders`; the papers are at the classes.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from lossserver.detection.coders import Coder, centres, clipped
from lossserver.detection.parts import CODERS
from lossserver.losses.boxes import sizes
from lossserver.losses.loss import require


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class TBLRBBoxCoder(Coder):
    """Ways from the prior's centre to the sides: top, bottom, left and right, in sizes of the prior.

    Zhu et al., Feature Selective Anchor-Free Module, 2019, arXiv:1903.00621.

    Parameters:
        normalizer: ways are divided by it; one number, or one for each of the four.
        clip_border: a box is cut to the image if its shape is given.
    """

    normalizer: float | tuple[float, ...] = 4.0
    clip_border: bool = True

    def __post_init__(self) -> None:
        each = (self.normalizer,) * 4 if isinstance(self.normalizer, float) else self.normalizer
        fits = len(each) == 4 and all(0 < one < inf for one in each)
        rule = "must be one number or four, above 0 and finite"
        require(fits, "normalizer", rule, self.normalizer)

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        middle = centres(priors)
        left, top = (middle - boxes[..., :2]).unbind(-1)
        right, bottom = (boxes[..., 2:] - middle).unbind(-1)
        ways = torch.stack((top, bottom, left, right), dim=-1)
        return ways / self._sides(priors) / self._factor(priors)

    def decode(
        self, priors: Tensor, predictions: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        ways = self._sides(priors) * (predictions * self._factor(priors))
        top, bottom, left, right = ways.unbind(-1)
        x, y = centres(priors).unbind(-1)
        boxes = torch.stack((x - left, y - top, x + right, y + bottom), dim=-1)
        return clipped(boxes, max_shape) if self.clip_border else boxes

    def _sides(self, priors: Tensor) -> Tensor:
        return sizes(priors).flip(-1).repeat_interleave(2, dim=-1)

    def _factor(self, priors: Tensor) -> Tensor | float:
        if isinstance(self.normalizer, float):
            return self.normalizer
        return torch.tensor(self.normalizer, dtype=torch.float32, device=priors.device)


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class DistancePointBBoxCoder(Coder):
    """Ways from a point to the sides: left, top, right and bottom, in pixels. Priors are points.

    Tian et al., FCOS, 2019, arXiv:1904.01355, eq. 1.

    Parameters:
        clip_border: a box is cut to the image if its shape is given.
    """

    clip_border: bool = True

    def encode(
        self, priors: Tensor, boxes: Tensor, max_dis: float | None = None, eps: float = 0.1
    ) -> Tensor:
        """As of every coder.

        Parameters:
            max_dis: the ways are cut to [0, max_dis - eps].
            eps: see there.
        """
        points = priors[..., :2]
        ways = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)
        return ways if max_dis is None else ways.clamp(0, max_dis - eps)

    def decode(
        self, priors: Tensor, predictions: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        points = priors[..., :2]
        corners = points - predictions[..., :2], points + predictions[..., 2:]
        boxes = torch.cat(corners, dim=-1)
        return clipped(boxes, max_shape) if self.clip_border else boxes
