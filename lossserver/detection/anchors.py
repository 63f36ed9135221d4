"""Anchors: boxes of a few sizes and shapes, the same ones at every place of a level.

    AnchorGenerator         every scale with every ratio
    LegacyAnchorGenerator   the same in whole pixels
    YOLOAnchorGenerator     any sizes

ssd_anchors.py has those of SSD.

Source: MMDetection 3.3.0, `mmdet/models/task_modules/prior_generators`. The same float32 values.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import torch
from torch import Tensor

from lossserver.detection.parts import PRIORS
from lossserver.detection.priors import MAX_PER_PLACE, PriorGenerator, places
from lossserver.losses.loss import require
from lossserver.registry import RefusedError

#: Of one level: the width and height that scales and ratios multiply; x and y of the centre.
Shapes = tuple[Tensor, Tensor]
Centre = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Anchors(PriorGenerator):
    """A prior generator whose priors are boxes around every place."""

    @cached_property
    def base(self) -> list[Tensor]:
        """The anchors of the place at 0, 0, float32 [A, 4] on the CPU, a level each."""
        return [self.base_of(level) for level in range(self.num_levels)]

    @abstractmethod
    def base_of(self, level: int) -> Tensor:
        """The anchors of the place at 0, 0 of that level, float32 [A, 4]."""

    def grid(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        found = []
        for size, pair, base in zip(sizes, self.pairs, self.base, strict=True):
            corner = places(size, pair, 0.0, device)
            both = torch.cat((corner, corner), dim=-1)[:, :, None]
            found.append((base.to(device) + both).reshape(-1, 4))
        return found


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class AnchorGenerator(Anchors):
    """Anchors of every scale and ratio: of area (s · base_size)², the height being `ratio` widths.

    Parameters:
        strides: pixels from place to place, for each level; a number or (w, h).
        ratios: heights over widths.
        scales: multiples of the base size; None if octave_base_scale says them.
        base_sizes: pixels, for each level; None is its stride, the shorter of the two.
        scale_major: anchors of a place are in the order ratio, scale; else scale, ratio.
        octave_base_scale: the least scale, with scales_per_octave in place of scales.
        scales_per_octave: so many scales, the next octave being twice the base scale.
        centers: x and y of the anchors of the first place, for each level, in pixels.
        center_offset: the same as a part of the base size, in [0, 1].
    """

    ratios: tuple[float, ...]
    scales: tuple[float, ...] | None = None
    base_sizes: tuple[float, ...] | None = None
    scale_major: bool = True
    octave_base_scale: float | None = None
    scales_per_octave: int | None = None
    centers: tuple[tuple[float, ...], ...] | None = None
    center_offset: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_scales()
        positive(self.ratios, "ratios")
        count = len(self.ratios) * (self.scales_per_octave or len(self.scales or ()))
        rule = f"must make no more than {MAX_PER_PLACE} anchors of a place, with the ratios"
        require(count <= MAX_PER_PLACE, "scales", rule, count)
        if self.base_sizes is not None:
            positive(self.base_sizes, "base_sizes")
            one_a_level(self.base_sizes, "base_sizes", self.num_levels)
        within = 0 <= self.center_offset <= 1
        require(within, "center_offset", "must be in [0, 1]", self.center_offset)
        if self.centers is not None:
            one_a_level(self.centers, "centers", self.num_levels)
            for level, centre in enumerate(self.centers):
                fits = len(centre) == 2 and all(-inf < side < inf for side in centre)
                require(fits, f"centers[{level}]", "must be finite x and y", centre)
            rule = "must be 0 where centers are given"
            require(self.center_offset == 0, "center_offset", rule, self.center_offset)

    def _check_scales(self) -> None:
        octave = (self.octave_base_scale, self.scales_per_octave)
        if self.scales is not None:
            rule = "must be None where octave_base_scale and scales_per_octave are given"
            require(None in octave, "scales", rule, self.scales)
            positive(self.scales, "scales")
            return
        if self.octave_base_scale is None or self.scales_per_octave is None:
            rule = "must be given, or octave_base_scale and scales_per_octave"
            raise RefusedError("scales", rule, None)
        positive((self.octave_base_scale,), "octave_base_scale")
        rule = f"must be in 1..{MAX_PER_PLACE}"
        fits = 1 <= self.scales_per_octave <= MAX_PER_PLACE
        require(fits, "scales_per_octave", rule, self.scales_per_octave)

    @property
    def num_base_priors(self) -> list[int]:
        return [len(one) for one in self.base]

    @property
    def all_scales(self) -> list[float]:
        """The scales, whichever parameters say them."""
        if self.scales is not None:
            return list(self.scales)
        base, count = self.octave_base_scale, self.scales_per_octave
        assert base is not None and count is not None  # noqa: S101, PT018  (_check_scales)
        return [2 ** (i / count) * base for i in range(count)]

    def size_of(self, level: int) -> float:
        """The base size of a level, in pixels."""
        return float(min(self.pairs[level]) if self.base_sizes is None else self.base_sizes[level])

    def base_of(self, level: int) -> Tensor:
        size = self.size_of(level)
        shapes = shapes_of(size, self.all_scales, self.ratios, scale_major=self.scale_major)
        if self.centers is not None:
            return self.boxes(shapes, (self.centers[level][0], self.centers[level][1]))
        return self.boxes(shapes, self.centre(size))

    def centre(self, size: float) -> Centre:
        """Where the anchors of the first place are, by their base size."""
        return self.center_offset * size, self.center_offset * size

    def boxes(self, shapes: Shapes, centre: Centre) -> Tensor:
        """Boxes [A, 4] of these widths and heights around a centre."""
        return around(shapes, centre)


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class LegacyAnchorGenerator(AnchorGenerator):
    """As AnchorGenerator, but in whole pixels and a pixel shorter, as MMDetection 1 had them."""

    def centre(self, size: float) -> Centre:
        return self.center_offset * (size - 1), self.center_offset * (size - 1)

    def boxes(self, shapes: Shapes, centre: Centre) -> Tensor:
        return legacy(shapes, centre)


@PRIORS.register
@dataclass(frozen=True, kw_only=True)
class YOLOAnchorGenerator(Anchors):
    """Anchors of YOLO: boxes of given sizes in the middle of each place.

    Parameters:
        strides: pixels from place to place, for each level; a number or (w, h).
        base_sizes: width and height of each anchor, as many for each level.
    """

    base_sizes: tuple[tuple[float | tuple[float, ...], ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        one_a_level(self.base_sizes, "base_sizes", self.num_levels)
        for level, sizes in enumerate(self.base_sizes):
            field = f"base_sizes[{level}]"
            rule = f"must be as many as of level 0, and 1..{MAX_PER_PLACE}"
            fits = 0 < len(sizes) == len(self.base_sizes[0]) <= MAX_PER_PLACE
            require(fits, field, rule, len(sizes))
            for i, size in enumerate(sizes):
                pair = (size,) if isinstance(size, float) else size
                positive(pair, f"{field}[{i}]")
                fits = isinstance(size, float) or len(size) == 2
                require(fits, f"{field}[{i}]", "must be width and height", size)

    @property
    def num_base_priors(self) -> list[int]:
        return [len(sizes) for sizes in self.base_sizes]

    def base_of(self, level: int) -> Tensor:
        x, y = (side / 2 for side in self.pairs[level])
        rows = []
        for size in self.base_sizes[level]:
            w, h = (size, size) if isinstance(size, float) else (size[0], size[1])
            rows.append([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h])
        return torch.tensor(rows, dtype=torch.float32)


def shapes_of(
    size: float, scales: Sequence[float], ratios: Sequence[float], *, scale_major: bool
) -> Shapes:
    """Widths and heights [A] of every combination of a scale and a ratio, in float32."""
    high = torch.tensor(ratios, dtype=torch.float32).sqrt()
    times = torch.tensor(scales, dtype=torch.float32)
    # The order of products is upstream's: another one rounds differently.
    if scale_major:
        sides = [(size * one[:, None] * times).reshape(-1) for one in (1 / high, high)]
    else:
        sides = [(size * times[:, None] * one).reshape(-1) for one in (1 / high, high)]
    return sides[0], sides[1]


def around(shapes: Shapes, centre: Centre) -> Tensor:
    """Boxes [A, 4] of these widths and heights around a centre."""
    (width, height), (x, y) = shapes, centre
    sides = [x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height]
    return torch.stack(sides, dim=-1)


def legacy(shapes: Shapes, centre: Centre) -> Tensor:
    """The same with corners in whole pixels, both of which belong to the box."""
    width, height = shapes
    return around((width - 1, height - 1), centre).round()


def positive(numbers: Sequence[float], field: str) -> None:
    """Refuse a parameter that is not some positive, finite numbers."""
    fits = len(numbers) > 0 and all(0 < one < inf for one in numbers)
    require(fits, field, "must be above 0 and finite", list(numbers))


def one_a_level(given: Sequence[object], field: str, levels: int) -> None:
    """Refuse a list that is not as long as the strides."""
    require(len(given) == levels, field, f"must be {levels}, one a stride", len(given))
