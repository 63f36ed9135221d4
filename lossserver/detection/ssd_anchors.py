"""Anchors of SSD, whose levels have ratios of their own.

Source: MMDetection 3.3.0, `mmdet/models/task_modules/prior_generators`. The same float32 values.
"""

from dataclasses import dataclass
from functools import cached_property
from math import sqrt

from torch import Tensor

from lossserver.detection.anchors import (
    Anchors,
    Centre,
    Shapes,
    around,
    legacy,
    one_a_level,
    positive,
    shapes_of,
)
from lossserver.detection.parts import PRIORS
from lossserver.detection.priors import MAX_PER_PLACE
from lossserver.losses.loss import require
from lossserver.registry import RefusedError

#: For SSDs on COCO and VOC: by input size and least ratio, the sizes of the first level in percent.
SSD_FIRST = {
    (300, 0.15): (7, 15),
    (300, 0.2): (10, 20),
    (512, 0.1): (4, 10),
    (512, 0.15): (7, 15),
}


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class SSDAnchorGenerator(Anchors):
    """Anchors of SSD: of each level a square, one of the next level's sizes, and its own ratios.

    Parameters:
        strides: pixels from place to place, for each level; a number or (w, h).
        ratios: for each level; each stands for itself and its inverse.
        min_sizes: side of the smaller square, for each level; None if the ratio range says it.
        max_sizes: the larger square has a side of √(min · max).
        basesize_ratio_range: smallest and largest size as parts of the input, in [0, 1], but for
            the first level's.
        input_size: 300 or 512, the side of the network's input in pixels.
        scale_major: always false upstream, where the order of anchors suits it.
    """

    ratios: tuple[tuple[float, ...], ...]
    min_sizes: tuple[float, ...] | None = None
    max_sizes: tuple[float, ...] | None = None
    basesize_ratio_range: tuple[float, ...] = (0.15, 0.9)
    input_size: int = 300
    scale_major: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_a_level(self.ratios, "ratios", self.num_levels)
        for level, ratios in enumerate(self.ratios):
            rule = f"must be fewer than {MAX_PER_PLACE // 4}"
            require(len(ratios) < MAX_PER_PLACE // 4, f"ratios[{level}]", rule, len(ratios))
            if ratios:
                positive(ratios, f"ratios[{level}]")
        _ = self.squares

    @cached_property
    def squares(self) -> list[tuple[float, float]]:
        """Smallest and largest size of each level, in pixels."""
        if self.min_sizes is None and self.max_sizes is None:
            found = self._squares_of_range()
            rule = f"must give sizes for {self.num_levels} levels"
            given = self.basesize_ratio_range
            require(len(found) == self.num_levels, "basesize_ratio_range", rule, given)
            return found
        if self.min_sizes is None or self.max_sizes is None:
            missing = "max_sizes" if self.max_sizes is None else "min_sizes"
            raise RefusedError(missing, "must be given where the other sizes are", None)
        for sizes, name in ((self.min_sizes, "min_sizes"), (self.max_sizes, "max_sizes")):
            positive(sizes, name)
            one_a_level(sizes, name, self.num_levels)
        return list(zip(self.min_sizes, self.max_sizes, strict=True))

    def _squares_of_range(self) -> list[tuple[float, float]]:
        given = self.basesize_ratio_range
        fits = len(given) == 2 and 0 <= given[0] < given[1] <= 1
        require(fits, "basesize_ratio_range", "must be two of [0, 1], the smaller first", given)
        first = SSD_FIRST.get((self.input_size, given[0]))
        if first is None:
            known = ", ".join(f"{least} of {size}" for size, least in SSD_FIRST)
            rule = f"without min_sizes, the smallest ratio and input_size must be one of {known}"
            raise RefusedError("basesize_ratio_range", rule, f"{given[0]} of {self.input_size}")
        least, most = (int(ratio * 100) for ratio in given)
        require(self.num_levels > 2, "strides", "must be at least 3 levels", self.num_levels)
        step = (most - least) // (self.num_levels - 2)
        require(step > 0, "basesize_ratio_range", "must differ by a percent a level", given)
        percents = [first, *((one, one + step) for one in range(least, most + 1, step))]
        return [(self._pixels(small), self._pixels(large)) for small, large in percents]

    def _pixels(self, percent: int) -> float:
        return float(int(self.input_size * percent / 100))

    @property
    def num_base_priors(self) -> list[int]:
        return [2 + 2 * len(ratios) for ratios in self.ratios]

    def centre_of(self, level: int) -> Centre:
        """Where the anchors of the first place are: in its middle."""
        width, height = self.pairs[level]
        return width / 2, height / 2

    def base_of(self, level: int) -> Tensor:
        small, large = self.squares[level]
        ratios = [1.0, *(one for ratio in self.ratios[level] for one in (1 / ratio, ratio))]
        shapes = shapes_of(small, [1.0, sqrt(large / small)], ratios, scale_major=self.scale_major)
        # Of all combinations those of the first scale, and after its square the larger one.
        order = [0, len(ratios), *range(1, len(ratios))]
        return self.boxes(shapes, self.centre_of(level))[order]

    def boxes(self, shapes: Shapes, centre: Centre) -> Tensor:
        """Boxes [A, 4] of these widths and heights around a centre."""
        return around(shapes, centre)


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class LegacySSDAnchorGenerator(SSDAnchorGenerator):
    """As SSDAnchorGenerator, but in whole pixels and a pixel shorter, as MMDetection 1 had them."""

    def centre_of(self, level: int) -> Centre:
        width, height = self.pairs[level]
        return (width - 1) / 2, (height - 1) / 2

    def boxes(self, shapes: Shapes, centre: Centre) -> Tensor:
        return legacy(shapes, centre)
