"""Overlaps of objects and priors, a block of pairs at a time, and what is wanted of them.

500 objects and 200,000 priors make 10^8 pairs: 400 MB a matrix, of which an overlap takes five. An
assigner needs only the largest of each column and row and where they are, so no matrix is ever
whole. A pair's overlap is the same to the bit in whatever block it is computed: its arithmetic
reads nothing but its two boxes.

What blocks give is written into tensors made beforehand. Small results kept between large
temporaries would keep malloc from using the temporaries' memory again: 350 MiB more at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lossserver.detection.parts import CALCULATORS
from lossserver.losses.boxes import areas, sizes
from lossserver.losses.loss import require

#: Pairs in a block. On a CPU its five matrices of 1 MiB should stay in the cache: of 2^22 pairs it is
#: half as fast. A GPU should rather start few kernels, and 64 MiB a matrix is still little.
CPU_BLOCK, GPU_BLOCK = 1 << 18, 1 << 24

#: No area that divides is less.
EPS = 1e-6

Mode = Literal["iou", "iof"]


@CALCULATORS.register
@dataclass(frozen=True, kw_only=True)
class BboxOverlaps2D:
    """Shared area over that of both boxes ("iou"), or over that of the first ("iof").

    Parameters:
        scale: divides the boxes if dtype is "fp16", so that their areas stay in its range.
        dtype: "fp16" rounds every step to half precision; None is float32.

    Source:
        MMDetection 3.3.0, `BboxOverlaps2D`, to the bit.
    """

    scale: float = 1.0
    dtype: str | None = None

    def __post_init__(self) -> None:
        require(self.dtype in (None, "fp16"), "dtype", "must be fp16 or None", self.dtype)
        require(self.scale > 0, "scale", "must be above 0", self.scale)

    def __call__(self, a: Tensor, b: Tensor, mode: Mode = "iou") -> Tensor:
        """The overlaps, float32, of boxes [..., 4] that broadcast."""
        if self.dtype == "fp16":
            a, b = (a / self.scale).half(), (b / self.scale).half()
        return _overlaps(a, b, mode).float()


def _overlaps(a: Tensor, b: Tensor, mode: Mode) -> Tensor:
    # Coordinate by coordinate, in place: three times as fast as pairs of corners [..., 2], which
    # the losses need for their gradients.
    left, top, right, bottom = a.unbind(-1)
    b_left, b_top, b_right, b_bottom = b.unbind(-1)
    shared = torch.minimum(right, b_right).sub_(torch.maximum(left, b_left)).clamp_(min=0)
    height = torch.minimum(bottom, b_bottom).sub_(torch.maximum(top, b_top)).clamp_(min=0)
    shared.mul_(height)
    covered = areas(sizes(a))
    if mode == "iou":
        covered = torch.add(covered, areas(sizes(b)), out=height).sub_(shared)
    return shared.div_(covered.clamp(min=EPS))


def spans(count: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of `count` rows, each of `width`, such that one makes a block of pairs."""
    block = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    step = max(1, block // max(1, width))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def bounds_of(threshold: float | tuple[float, ...]) -> tuple[float, float] | None:
    """The bounds of a negative's overlap that neg_iou_thr means; None if it makes no prior negative.

    Raises:
        RefusedError: neither a number nor a pair.
    """
    if isinstance(threshold, tuple):
        require(len(threshold) == 2, "neg_iou_thr", "must be a number, or [low, high]", threshold)
        return threshold[0], threshold[1]
    # Upstream looks for a float, so that 0 and 0.0 differ.
    return (0.0, threshold) if isinstance(threshold, float) else None


class Largest(NamedTuple):
    """The largest overlaps of N objects and M priors.

    Attributes:
        of_prior: [M].
        of_object: [N].
        by_block: [B, N], of each object in each block of priors.
    """

    of_prior: Tensor
    of_object: Tensor
    by_block: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """The overlaps [N, M] of objects and priors, N and M at least 1.

    Attributes:
        calculator: computes them.
        objects: float32 [N, 4].
        priors: float32 [M, 4].
        hidden: bool [M], priors of which all overlaps read as -1; None is no prior.
    """

    calculator: BboxOverlaps2D
    objects: Tensor
    priors: Tensor
    hidden: Tensor | None = None

    def _of(self, rows: Tensor | slice, columns: Tensor | slice) -> Tensor:
        found = self.calculator(self.objects[rows][:, None], self.priors[columns])
        if self.hidden is not None:
            found.masked_fill_(self.hidden[columns], -1)
        return found

    def _spans(self) -> Iterator[slice]:
        return spans(len(self.priors), len(self.objects), self.priors.device)

    def largest(self) -> Largest:
        """The largest overlap of every object and every prior."""
        blocks = list(self._spans())
        of_prior = self.priors.new_empty(len(self.priors))
        by_block = self.priors.new_empty(len(blocks), len(self.objects))
        for block, span in enumerate(blocks):
            found = self._of(slice(None), span)
            # Not max, which gives the index too: on a CPU it is ten times as slow as amax.
            of_prior[span], by_block[block] = found.amax(0), found.amax(1)
        return Largest(of_prior, by_block.amax(0), by_block)

    def owners(self, places: Tensor) -> Tensor:
        """The object of the largest overlap of these priors [P], the first of equals; int64 [P]."""
        found = torch.empty_like(places)
        for span in spans(len(places), len(self.objects), places.device):
            found[span] = self._of(slice(None), places[span]).argmax(0)
        return found

    def claims(self, largest: Largest, claiming: Tensor, *, every: bool) -> Tensor:
        """Which object has its largest overlap at a prior: k + 1 for object k, else 0; int64 [M].

        Where several have, it is the last one's.

        Parameters:
            largest: of these pairs.
            claiming: bool [N], whether an object claims any.
            every: all priors of that overlap are claimed, and not only the first.
        """
        attained = (largest.by_block == largest.of_object) & claiming
        if not every:
            attained &= attained.cumsum(0) == 1
        claims = largest.of_prior.new_zeros(len(self.priors), dtype=torch.int64)
        # Looked up on the host, for all blocks at once: few objects are to be compared again.
        for span, attaining in zip(self._spans(), attained.cpu(), strict=True):
            rows = attaining.nonzero().squeeze(1).to(claims.device)
            if not len(rows):
                continue
            found = self._of(rows, span)
            hits = found == largest.of_object[rows][:, None]
            if not every:
                hits &= hits.cumsum(1) == 1
            claims[span] = torch.where(hits, rows[:, None] + 1, 0).amax(0)
        return claims


def covered(
    calculator: BboxOverlaps2D,
    priors: Tensor,
    regions: Tensor,
    threshold: float,
    *,
    of_priors: bool = True,
) -> Tensor | None:
    """Which priors have more than that share in one of the regions; None where nothing is asked.

    Parameters:
        calculator: computes it.
        priors: float32 [M, 4].
        regions: float32 [R, 4].
        threshold: nothing is covered unless it is above 0.
        of_priors: the share of the prior's area; else of the region's.
    """
    if threshold <= 0 or not len(regions) or not len(priors):
        return None
    found = priors.new_empty(len(priors), dtype=torch.bool)
    for span in spans(len(priors), len(regions), priors.device):
        a, b = priors[span], regions[:, None]
        shares = calculator(a, b, "iof") if of_priors else calculator(b, a, "iof")
        found[span] = shares.amax(0) > threshold
    return found
