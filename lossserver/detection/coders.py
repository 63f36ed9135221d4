"""Box coders: what a head predicts for a prior, and the box that a prediction means.

    encode(priors, boxes)                   what is to be predicted: the targets
    decode(priors, predictions, max_shape)  the boxes; differentiable in the predictions

Boxes are [..., 4], x1, y1, x2, y2 in pixels. Priors [N, 4] fit predictions [N, 4], and those of all
images, [B, N, 4]. What is known of a prior is computed in the prior's float32, also for float64
predictions, as upstream does.

side_coders.py has those that predict ways to the sides.

Source: MMDetection 3.3.0, `mmdet/models/task_modules/coders`; the papers are at the classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.parts import CODERS
from lossserver.losses.boxes import sizes
from lossserver.losses.loss import require

#: The ratio beyond which a decoded side is cut, and its inverse.
RATIO_CLIP = 16 / 1000


@dataclass(frozen=True, kw_only=True)
class Coder(ABC):
    """A way to write a box as seen from a prior."""

    #: How MMDetection wraps tensors, which is nothing to a server.
    UNREAD: ClassVar[frozenset[str]] = frozenset({"use_box_type"})

    @abstractmethod
    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """What is to be predicted for each prior and its box, [..., 4]."""

    @abstractmethod
    def decode(
        self, priors: Tensor, predictions: Tensor, max_shape: tuple[int, int] | None = None
    ) -> Tensor:
        """The boxes [..., 4] that predictions mean, in their dtype.

        Parameters:
            priors: what they were predicted for.
            predictions: [..., 4], as `encode` gives them.
            max_shape: height and width of the image, to which the boxes are cut if the config
                says so.
        """


@dataclass(frozen=True, kw_only=True)
class Deltas(Coder):
    """A coder of ways from the prior's centre and of ratios of sides, both normalised.

    Girshick et al., 2014, arXiv:1311.2524, appendix C.

    Class attributes:
        LONGER: pixels by which a side is longer than what its corners span.

    Parameters:
        target_means: subtracted from what is to be predicted.
        target_stds: what is to be predicted is divided by them, then.
    """

    LONGER: ClassVar[float] = 0.0

    target_means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    target_stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        means, stds = self.target_means, self.target_stds
        fits = len(means) == 4 and all(-inf < one < inf for one in means)
        require(fits, "target_means", "must be four finite numbers", list(means))
        fits = len(stds) == 4 and all(0 < one < inf for one in stds)
        require(fits, "target_stds", "must be four finite numbers above 0", list(stds))

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        extent = sizes(priors) + self.LONGER
        ways = (centres(boxes) - centres(priors)) / extent
        ratios = (sizes(boxes) + self.LONGER) / extent
        found = torch.cat((ways, ratios.log()), dim=-1)
        return (found - found.new_tensor(self.target_means)) / found.new_tensor(self.target_stds)

    def denormal(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """The ways [..., 2] and the logarithms of ratios [..., 2] that predictions mean."""
        stds = predictions.new_tensor(self.target_stds)
        found = predictions * stds + predictions.new_tensor(self.target_means)
        return found[..., :2], found[..., 2:]


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class DeltaXYWHBBoxCoder(Deltas):
    """The way from the prior's centre in its sizes, and the logarithm of how much larger the box is.

    Parameters:
        target_means, target_stds: as of every such coder.
        clip_border: a box is cut to the image if its shape is given.
        add_ctr_clamp: a box's centre goes no farther than ctr_clamp, and a side may shrink at will.
        ctr_clamp: pixels.
    """

    clip_border: bool = True
    add_ctr_clamp: bool = False
    ctr_clamp: float = 32.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ctr_clamp < inf, "ctr_clamp", "must be at least 0", self.ctr_clamp)

    def decode(
        self,
        priors: Tensor,
        predictions: Tensor,
        max_shape: tuple[int, int] | None = None,
        *,
        wh_ratio_clip: float = RATIO_CLIP,
    ) -> Tensor:
        """As of every coder.

        Parameters:
            wh_ratio_clip: in (0, 1]; a side changes no more than by it, or by its inverse.
        """
        moved, scaled = self.denormal(predictions)
        extent, most = sizes(priors), -log(wh_ratio_clip)
        way, least = extent * moved, -most
        if self.add_ctr_clamp:
            way, least = way.clamp(-self.ctr_clamp, self.ctr_clamp), -inf
        half = extent * scaled.clamp(least, most).exp() * 0.5
        boxes = around(centres(priors) + way, half)
        return clipped(boxes, max_shape) if self.clip_border else boxes


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class LegacyDeltaXYWHBBoxCoder(Deltas):
    """As DeltaXYWHBBoxCoder, where a box from 0 to 9 is ten wide, as MMDetection 1 had it.

    A decoded box is not a pixel shorter again, as upstream.

    Parameters:
        target_means, target_stds: as of every such coder.
    """

    LONGER: ClassVar[float] = 1.0

    def decode(
        self,
        priors: Tensor,
        predictions: Tensor,
        max_shape: tuple[int, int] | None = None,
        *,
        wh_ratio_clip: float = RATIO_CLIP,
    ) -> Tensor:
        """As of every coder; wh_ratio_clip as of DeltaXYWHBBoxCoder."""
        moved, scaled = self.denormal(predictions)
        extent, most = sizes(priors) + self.LONGER, -log(wh_ratio_clip)
        middle = centres(priors) + extent * moved
        boxes = around(middle, extent * scaled.clamp(-most, most).exp() * 0.5)
        return clipped(boxes, max_shape and (max_shape[0] - 1, max_shape[1] - 1))


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class PseudoBBoxCoder(Coder):
    """Boxes as they are."""

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        return boxes

    def decode(
        self,
        priors: Tensor,
        predictions: Tensor,
        max_shape: tuple[int, int] | None = None,
    ) -> Tensor:
        return predictions


@CODERS.register
@dataclass(frozen=True, kw_only=True)
class YOLOBBoxCoder:
    """Where in its place a box's centre is, and the logarithm of how much larger it is.

    The only coder that must know the stride of each prior.
    Redmon et al., YOLO9000, 2016, arXiv:1612.08242, section 2.

    Parameters:
        eps: what is to be predicted of a centre is in [eps, 1 - eps], and a ratio no less than eps.
    """

    UNREAD: ClassVar[frozenset[str]] = Coder.UNREAD

    eps: float = 1e-6

    def __post_init__(self) -> None:
        require(0 <= self.eps < 0.5, "eps", "must be in [0, 0.5)", self.eps)

    def encode(self, priors: Tensor, boxes: Tensor, stride: Tensor | float) -> Tensor:
        """What is to be predicted, [..., 4]: x and y in [eps, 1 - eps], and two logarithms.

        Parameters:
            priors: [..., 4].
            boxes: of each prior.
            stride: pixels; one number, or one a prior, [...].
        """
        centre = (centres(boxes) - centres(priors)) / each(stride) + 0.5
        ratio = (sizes(boxes) / sizes(priors)).clamp(min=self.eps)
        return torch.cat((centre.clamp(self.eps, 1 - self.eps), ratio.log()), dim=-1)

    def decode(self, priors: Tensor, predictions: Tensor, stride: Tensor | float) -> Tensor:
        """The boxes [..., 4] that predictions mean, in their dtype.

        Parameters:
            priors: [..., 4].
            predictions: [..., 4], x and y after their sigmoid.
            stride: pixels; one number, or one a prior, [...].
        """
        centre = centres(priors) + (predictions[..., :2] - 0.5) * each(stride)
        return around(centre, sizes(priors) * 0.5 * predictions[..., 2:].exp())


def centres(boxes: Tensor) -> Tensor:
    """The middles [..., 2] of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5


def each(stride: Tensor | float) -> Tensor | float:
    """A stride, of each prior if it is a tensor, as it multiplies x and y."""
    return stride.unsqueeze(-1) if isinstance(stride, Tensor) else stride


def around(middle: Tensor, half: Tensor) -> Tensor:
    """Boxes [..., 4] by their centre and half of their size."""
    return torch.cat((middle - half, middle + half), dim=-1)


def clipped(boxes: Tensor, shape: tuple[int, int] | None) -> Tensor:
    """Boxes cut to an image of this height and width; as they are without one."""
    if shape is None:
        return boxes
    x1, y1, x2, y2 = boxes.unbind(-1)
    height, width = shape
    sides = x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)
    return torch.stack(sides, dim=-1)
