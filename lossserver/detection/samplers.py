"""Samplers: which of the assigned priors a loss looks at.

    PseudoSampler       all
    RandomSampler       so many, and no more positives than a part of them
    CombinedSampler     positives by one sampler, negatives by another

balanced_samplers.py spreads them over objects or overlaps, hard_samplers.py takes what costs most.

Random numbers come from one generator in upstream's order, positives first, and on the CPU: from
the same seed MMDetection 3.3.0 chooses the same.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import NEGATIVE, Assigned, Predicted, Sampled, Sampler
from lossserver.detection.images import Image
from lossserver.detection.parts import SAMPLERS
from lossserver.losses.loss import require
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """What a sampler chooses from: priors, or objects' own boxes and then priors.

    Attributes:
        gt_inds: int64 [n]; -1 ignored, 0 negative, k + 1 for object k. On the CPU, where the choice
            is made.
        overlaps: float32 [n]; None where the assigner has none.
        generator: of random numbers.
        losses: float [n], where they were given.
        predicted: where it was given.
    """

    gt_inds: Tensor
    overlaps: Tensor | None
    generator: torch.Generator
    losses: Tensor | None
    predicted: Predicted | None

    @cached_property
    def positives(self) -> Tensor:
        """Indices of those with an object, in order."""
        return (self.gt_inds > NEGATIVE).nonzero().squeeze(1)

    @cached_property
    def negatives(self) -> Tensor:
        """Indices of those without, in order."""
        return (self.gt_inds == NEGATIVE).nonzero().squeeze(1)

    def any_of(self, indices: Tensor, count: int) -> Tensor:
        """So many of the indices at random, or all if there are no more; then without using up a number."""
        if len(indices) <= count:
            return indices
        return indices[torch.randperm(len(indices), generator=self.generator)[:count]]


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class PseudoSampler(Sampler):
    """All positives and all negatives; a mean divides by the positives alone."""

    #: Upstream takes anything here.
    UNREAD: ClassVar[frozenset[str]] = frozenset(
        {"num", "pos_fraction", "neg_pos_ub", "add_gt_as_proposals", "context"}
    )

    def sample(
        self,
        assigned: Assigned,
        priors: Tensor,
        image: Image,
        generator: torch.Generator,
        *,
        losses: Tensor | None = None,
        predicted: Predicted | None = None,
    ) -> Sampled:
        pos = (assigned.gt_inds > NEGATIVE).nonzero().squeeze(1)
        return Sampled(
            pos_inds=pos,
            neg_inds=(assigned.gt_inds == NEGATIVE).nonzero().squeeze(1),
            pos_gt_inds=assigned.gt_inds[pos] - 1,
            priors=priors,
            avg_factor=max(len(pos), 1),
        )


@dataclass(frozen=True, kw_only=True)
class Choice(Sampler):
    """So many priors, of which a part may be positives; the rest is filled with negatives.

    Parameters:
        num: priors chosen of an image.
        pos_fraction: the part of them that may be positives, in [0, 1].
        neg_pos_ub: negatives for each positive, at most; below 0 is any number. An image without
            positives counts as if it had one.
        add_gt_as_proposals: the objects' own boxes are put before the priors, as positives.
    """

    UNREAD: ClassVar[frozenset[str]] = frozenset({"context", "rng"})

    num: int
    pos_fraction: float
    neg_pos_ub: float = -1.0
    add_gt_as_proposals: bool = True

    def __post_init__(self) -> None:
        require(self.num > 0, "num", "must be above 0", self.num)
        within = 0 <= self.pos_fraction <= 1
        require(within, "pos_fraction", "must be in [0, 1]", self.pos_fraction)
        # No count is larger than 2^53, beyond which this would not fit an integer.
        require(self.neg_pos_ub < 1 << 53, "neg_pos_ub", "must be finite", self.neg_pos_ub)

    @abstractmethod
    def positives(self, among: Candidates, count: int) -> Tensor:
        """Indices of so many positives, or of all if there are no more."""

    @abstractmethod
    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        """Indices of so many negatives, or of all if there are no more; and their weights."""

    @torch.no_grad()
    def sample(
        self,
        assigned: Assigned,
        priors: Tensor,
        image: Image,
        generator: torch.Generator,
        *,
        losses: Tensor | None = None,
        predicted: Predicted | None = None,
    ) -> Sampled:
        gt_inds, overlaps = assigned.gt_inds, assigned.overlaps
        if self.add_gt_as_proposals:
            count = len(image.boxes)
            own = torch.arange(1, count + 1, device=gt_inds.device)
            gt_inds = torch.cat((own, gt_inds))
            if overlaps is not None:
                overlaps = torch.cat((overlaps.new_ones(count), overlaps))
            priors = torch.cat((image.boxes, priors))
        among = Candidates(
            gt_inds=gt_inds.cpu(),
            overlaps=overlaps,
            generator=generator,
            losses=losses,
            predicted=predicted,
        )
        pos = self.positives(among, int(self.num * self.pos_fraction))
        most = self.num - len(pos)
        if self.neg_pos_ub >= 0:
            most = min(most, int(self.neg_pos_ub * max(len(pos), 1)))
        neg, weights = self.negatives(among, most)
        return Sampled(
            pos_inds=pos.to(priors.device),
            neg_inds=neg.to(priors.device),
            pos_gt_inds=(among.gt_inds[pos] - 1).to(priors.device),
            priors=priors,
            avg_factor=max(len(pos), 1) + max(len(neg), 1),
            neg_weights=None if weights is None else weights.to(priors.device),
        )


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class RandomSampler(Choice):
    """So many priors at random, of which a part may be positives.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice.
    """

    def positives(self, among: Candidates, count: int) -> Tensor:
        return among.any_of(among.positives, count).sort().values

    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        return among.any_of(among.negatives, count).sort().values, None


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class CombinedSampler(Choice):
    """Positives by one sampler, and negatives by another.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice; the two samplers
            have them, too, where their configs do not say otherwise.
        pos_sampler: config of the sampler of positives.
        neg_sampler: config of the sampler of negatives.
    """

    pos_sampler: dict[str, Any]
    neg_sampler: dict[str, Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.of_positives, self.of_negatives

    @cached_property
    def of_positives(self) -> Choice:
        """The sampler of positives."""
        return self._part("pos_sampler")

    @cached_property
    def of_negatives(self) -> Choice:
        """The sampler of negatives."""
        return self._part("neg_sampler")

    def _part(self, name: str) -> Choice:
        shared = ("num", "pos_fraction", "neg_pos_ub", "add_gt_as_proposals")
        config = {key: getattr(self, key) for key in shared} | getattr(self, name)
        part = SAMPLERS.part(config, name)
        if isinstance(part, CombinedSampler) or not isinstance(part, Choice):
            rule = "must be a sampler that chooses by itself"
            raise RefusedError(f"{name}.type", rule, repr(config["type"]))
        return part

    def positives(self, among: Candidates, count: int) -> Tensor:
        return self.of_positives.positives(among, count)

    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        return self.of_negatives.negatives(among, count)
