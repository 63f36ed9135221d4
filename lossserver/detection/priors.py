"""What a prior generator is: boxes or points at every place of the feature maps, level by level.

A place of a map of stride (w, h) in column x and row y is at (x · w, y · h) of the image. Priors
are in the order y, x, and then the anchors of one place, as predictions are once they are flat.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.images import MAX_SIDE
from lossserver.losses.loss import require

#: Anchors that one place may have: some configs only name a number, and priors are allocated.
MAX_PER_PLACE = 1 << 10


@dataclass(frozen=True, kw_only=True)
class PriorGenerator(ABC):
    """Boxes or points from which predictions are measured.

    Parameters:
        strides: pixels from place to place, for each level; a number or (w, h).
    """

    #: How MMDetection wraps tensors, which is nothing to a server.
    UNREAD: ClassVar[frozenset[str]] = frozenset({"use_box_type"})

    strides: tuple[int | tuple[int, ...], ...]

    def __post_init__(self) -> None:
        require(len(self.strides) > 0, "strides", "must have one a level", [])
        rule = f"must be a whole number, or two, in 1..{MAX_SIDE}"
        for level, stride in enumerate(self.strides):
            pair = (stride,) * 2 if isinstance(stride, int) else stride
            fits = len(pair) == 2 and all(1 <= side <= MAX_SIDE for side in pair)
            require(fits, f"strides[{level}]", rule, stride)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The strides as (w, h), a level each."""
        return [(one, one) if isinstance(one, int) else (one[0], one[1]) for one in self.strides]

    @property
    def num_levels(self) -> int:
        """Feature maps that there must be."""
        return len(self.strides)

    @property
    @abstractmethod
    def num_base_priors(self) -> list[int]:
        """Priors at each place, a level each."""

    @abstractmethod
    def grid(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """The priors, a level each.

        Parameters:
            sizes: height and width of each level's map, in places.
            device: where they go.

        Returns:
            float32 [H · W · A, 4], x1, y1, x2, y2 in pixels; of points [H · W, 2], x and y.
        """

    def valid(
        self, sizes: Sequence[tuple[int, int]], pad_shape: tuple[int, int], device: torch.device
    ) -> list[Tensor]:
        """Whether a prior's place is in the image, a level each.

        Parameters:
            sizes: height and width of each level's map, in places.
            pad_shape: height and width of the image with its padding, in pixels.
            device: where they go.

        Returns:
            bool [H · W · A].
        """
        flags = []
        levels = zip(sizes, self.pairs, self.num_base_priors, strict=True)
        for (height, width), (stride_w, stride_h), count in levels:
            inside = torch.zeros(height, width, count, dtype=torch.bool, device=device)
            rows, columns = ceil(pad_shape[0] / stride_h), ceil(pad_shape[1] / stride_w)
            inside[:rows, :columns] = True
            flags.append(inside.reshape(-1))
        return flags


def places(
    size: tuple[int, int], pair: tuple[int, int], offset: float, device: torch.device
) -> Tensor:
    """Where the places of a map of this size and stride are, float32 [H, W, 2], x and y in pixels.

    Parameters:
        offset: of the place's point from its corner, in strides.
    """
    y, x = (
        (torch.arange(count, dtype=torch.float32, device=device) + offset) * stride
        for count, stride in zip(size, pair[::-1], strict=True)
    )
    return torch.stack((x.expand(size), y[:, None].expand(size)), dim=-1)
