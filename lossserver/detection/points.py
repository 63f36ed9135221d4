"""Points: one prior at every place, without a size.

Source: MMDetection 3.3.0, `mmdet/models/task_modules/prior_generators`. The same float32 values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from lossserver.detection.parts import PRIORS
from lossserver.detection.priors import PriorGenerator, places
from lossserver.losses.loss import require


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class MlvlPointGenerator(PriorGenerator):
    """A point at every place of every level.

    Parameters:
        strides: pixels from place to place, for each level; a number or (w, h).
        offset: of the point from the place's corner, in strides.
    """

    offset: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(-inf < self.offset < inf, "offset", "must be finite", self.offset)

    @property
    def num_base_priors(self) -> list[int]:
        return [1] * self.num_levels

    def grid(
        self,
        sizes: Sequence[tuple[int, int]],
        device: torch.device,
        *,
        with_stride: bool = False,
    ) -> list[Tensor]:
        """The points, a level each.

        Parameters:
            sizes: height and width of each level's map, in places.
            device: where they go.
            with_stride: each point is followed by its stride.

        Returns:
            float32 [H · W, 2], x and y in pixels; [H · W, 4] with the stride's width and height.
        """
        found = []
        for size, pair in zip(sizes, self.pairs, strict=True):
            points = places(size, pair, self.offset, device)
            if with_stride:
                strides = (torch.full_like(points[..., :1], side) for side in pair)
                points = torch.cat((points, *strides), dim=-1)
            found.append(points.reshape(-1, points.shape[-1]))
        return found
