"""Samplers that spread what they choose: over objects, or over overlaps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.detection.parts import SAMPLERS
from lossserver.detection.samplers import Candidates, RandomSampler
from lossserver.losses.loss import require
from lossserver.registry import RefusedError

#: Intervals of overlap that one may ask for: each is looked at by itself.
MAX_BINS = 1 << 10


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class InstanceBalancedPosSampler(RandomSampler):
    """As many positives of each object; negatives at random.

    Pang et al., Libra R-CNN, 2019, arXiv:1904.02701.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice.
    """

    def positives(self, among: Candidates, count: int) -> Tensor:
        everyone = among.positives
        if len(everyone) <= count:
            return everyone
        objects = among.gt_inds[everyone]
        sizes = objects.unique(return_counts=True)[1].tolist()
        each = round(count / len(sizes)) + 1
        groups = everyone[objects.argsort(stable=True)].split(sizes)
        chosen = torch.cat([among.any_of(group, each) for group in groups])
        if len(chosen) < count:
            # Upstream draws from all positives here, in no order, and may take one twice.
            rest = everyone[~torch.isin(everyone, chosen)]
            chosen = torch.cat((chosen, among.any_of(rest, count - len(chosen))))
        return among.any_of(chosen, count).sort().values


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class IoUBalancedNegSampler(RandomSampler):
    """As many negatives of each interval of overlap; positives at random.

    Pang et al., Libra R-CNN, 2019, arXiv:1904.02701, section 3.1.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice.
        floor_thr: the intervals begin at this overlap, at least 0; -1 is 0, with those of 0 among
            them.
        floor_fraction: the part of the negatives that is to be below, in [0, 1].
        num_bins: intervals from there to the largest overlap.
    """

    floor_thr: float = -1.0
    floor_fraction: float = 0.0
    num_bins: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.floor_thr >= 0 or self.floor_thr == -1
        require(fits, "floor_thr", "must be at least 0, or -1", self.floor_thr)
        fits = 0 <= self.floor_fraction <= 1
        require(fits, "floor_fraction", "must be in [0, 1]", self.floor_fraction)
        fits = 1 <= self.num_bins <= MAX_BINS
        require(fits, "num_bins", f"must be in 1..{MAX_BINS}", self.num_bins)

    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        if len(among.negatives) <= count:
            return among.negatives, None
        if among.overlaps is None:
            raise RefusedError("sampler", "must have an assigner that says overlaps", "another")
        overlaps = among.overlaps.cpu()
        # Sets, for their order is the one in which upstream's random numbers choose.
        everyone = set(among.negatives.tolist())
        below, above = self._floors(overlaps)
        low, high = list(below & everyone), list(above & everyone)
        most = int(count * (1 - self.floor_fraction))
        if self.num_bins > 1 and len(high) > most:
            chosen = self._by_interval(among, overlaps, set(high), most)
        else:
            chosen = _any_of(among, high, most)
        chosen = _any_of(among, low, count - len(chosen)) + chosen
        if len(chosen) < count:
            chosen += _any_of(among, list(everyone - set(chosen)), count - len(chosen))
        return torch.tensor(chosen, dtype=torch.int64).sort().values, None

    def _floors(self, overlaps: Tensor) -> tuple[set[int], set[int]]:
        """Indices of what is below the floor, and of what the intervals are of."""
        if self.floor_thr > 0:
            below = (overlaps >= 0) & (overlaps < self.floor_thr)
            return _where(below), _where(overlaps >= self.floor_thr)
        if self.floor_thr == 0:
            return _where(overlaps == 0), _where(overlaps > 0)
        return set(), _where(overlaps > self.floor_thr)

    def _by_interval(
        self, among: Candidates, overlaps: Tensor, free: set[int], count: int
    ) -> list[int]:
        floor = max(self.floor_thr, 0.0)
        width = (overlaps.max() - floor) / self.num_bins
        chosen = []
        for i in range(self.num_bins):
            start, end = floor + i * width, floor + (i + 1) * width
            within = _where((overlaps >= start) & (overlaps < end))
            chosen += _any_of(among, list(within & free), count // self.num_bins)
        if len(chosen) < count:
            chosen += _any_of(among, list(free - set(chosen)), count - len(chosen))
        return chosen


def _where(flags: Tensor) -> set[int]:
    return set(flags.nonzero().squeeze(1).tolist())


def _any_of(among: Candidates, indices: list[int], count: int) -> list[int]:
    chosen: list[int] = among.any_of(torch.tensor(indices, dtype=torch.int64), count).tolist()
    return chosen
