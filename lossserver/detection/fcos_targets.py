"""FCOS's rule: a point is for the smallest object that it is in and whose sides are in its level's range.

Source: Tian et al., FCOS, 2019, arXiv:1904.01355, sections 3.1 and 3.2; MMDetection 3.3.0,
`FCOSHead.get_targets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.detection.images import Image
from lossserver.detection.places import Reach, smallest
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.boxes import areas
from lossserver.losses.boxes import sizes as box_sizes
from lossserver.losses.loss import require

#: The area of no object at all, as upstream has it: an object of 10,000 by 10,000 pixels and more
#: loses its points to none as soon as there is another.
NO_AREA = 1e8

#: The range of each level, in pixels, and what is beyond any image.
RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))


@dataclass(frozen=True, kw_only=True)
class PointTargeting:
    """How points get objects; named as in the configs of heads.

    Attributes:
        regress_ranges: of each level, which distances to the farthest side it is for, in pixels,
            both ends included.
        center_sample_radius: a point must be so near to the object's centre, in strides, besides
            in the object; None is anywhere in it.
        strides: (w, h) of each level, in pixels.
        background: the label of no object.
    """

    regress_ranges: tuple[tuple[float, ...], ...]
    center_sample_radius: float | None
    strides: Sequence[tuple[int, int]]
    background: int

    def __post_init__(self) -> None:
        levels, given = len(self.strides), len(self.regress_ranges)
        require(given == levels, "regress_ranges", f"must be {levels}, one a level", given)
        for i, one in enumerate(self.regress_ranges):
            rule = "must be two numbers, the least and the largest distance"
            require(len(one) == 2, f"regress_ranges[{i}]", rule, one)

    @torch.no_grad()
    def of_images(
        self,
        sizes: Sequence[tuple[int, int]],
        points: Sequence[Tensor],
        images: Sequence[Image],
    ) -> tuple[Tensor, Tensor]:
        """Labels [B, A], and distances [B, A, 4] to the object's left, top, right and bottom.

        Without an object the label is background, and the distances mean nothing.

        Parameters:
            sizes: height and width of each level's map.
            points: float [H · W, 2], one a level.
            images: B of them.
        """
        whole = torch.cat(list(points))
        labels, distances = [], []
        for image in images:
            if not len(image.boxes):
                labels.append(image.labels.new_full((len(whole),), self.background))
                distances.append(whole.new_zeros(len(whole), 4))
                continue
            levels = enumerate(zip(sizes, points, strict=True))
            found = [self._of_level(level, *own, image.boxes) for level, own in levels]
            area, index = (torch.cat(one) for one in zip(*found, strict=True))
            labels.append(image.labels[index].masked_fill(area == NO_AREA, self.background))
            distances.append(DistancePointBBoxCoder().encode(whole, image.boxes[index]))
        return torch.stack(labels), torch.stack(distances)

    def _of_level(
        self, level: int, size: tuple[int, int], points: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The least area of the objects that each point is for, and whose it is."""
        # One place of each row gives its y, and one of each column its x.
        grid = points.view(*size, 2)
        at = grid[:1].reshape(-1, 2)[:, 0, None], grid[:, :1].reshape(-1, 2)[:, 1, None]
        return smallest(
            areas(box_sizes(boxes)),
            size,
            lambda objects: self._reach(level, *at, boxes[objects]),
            NO_AREA,
        )

    def _reach(self, level: int, x: Tensor, y: Tensor, boxes: Tensor) -> tuple[Reach, Reach]:
        """Where objects are: near enough in both x and y, and far enough in one of them."""
        low, high = boxes[:, :2], boxes[:, 2:]
        near, beyond = low, high
        if self.center_sample_radius is not None:
            radius, strides = self.center_sample_radius, self.strides[level]
            reach, centre = boxes.new_tensor([side * radius for side in strides]), (low + high) / 2
            near, beyond = torch.maximum(centre - reach, low), torch.minimum(centre + reach, high)
        least, most = self.regress_ranges[level]
        within, far = [], []
        for axis, at in ((1, y), (0, x)):
            farthest = torch.maximum(at - low[:, axis], high[:, axis] - at)
            inside = (at > near[:, axis]) & (at < beyond[:, axis])
            within.append(inside & (farthest <= most))
            far.append(farthest >= least)
        return Reach(*within), Reach(*far)
