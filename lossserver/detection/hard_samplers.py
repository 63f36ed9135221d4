"""Samplers that look at what a network makes of the priors, where that is given."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.parts import SAMPLERS
from lossserver.detection.samplers import Candidates, Choice, RandomSampler
from lossserver.losses.boxes import iou
from lossserver.losses.loss import refuse_pairs, require
from lossserver.registry import RefusedError


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class OHEMSampler(Choice):
    """The priors that cost most, by the losses that are given.

    Shrivastava et al., Online Hard Example Mining, 2016, arXiv:1604.03540.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice.
    """

    UNREAD: ClassVar[frozenset[str]] = Choice.UNREAD | {"loss_key"}

    def positives(self, among: Candidates, count: int) -> Tensor:
        return hardest(among, among.positives, count)

    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        return hardest(among, among.negatives, count), None


@SAMPLERS.register
@dataclass(frozen=True, kw_only=True)
class ScoreHLRSampler(RandomSampler):
    """Negatives by their hierarchical local rank, with weights by it; positives at random.

    A negative that scores above score_thr for some class ranks by its place among those that
    overlap it, and of equal places by its score. Losses, logits [n, C + 1], background last, and
    boxes decoded for the best class must be given.
    Cao et al., Prime Sample Attention, 2020, arXiv:1904.04821, section 4.2.

    Parameters:
        num, pos_fraction, neg_pos_ub, add_gt_as_proposals: as of every choice.
        k: exponent of the weights.
        bias: the least weight before the exponent, in [0, 1].
        score_thr: a negative that scores no more is chosen at random, if too few others are there.
        iou_thr: boxes that overlap so much are ranked together.
    """

    k: float = 0.5
    bias: float = 0.0
    score_thr: float = 0.05
    iou_thr: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.bias <= 1, "bias", "must be in [0, 1]", self.bias)

    def negatives(self, among: Candidates, count: int) -> tuple[Tensor, Tensor | None]:
        everyone = among.negatives
        count = min(count, len(everyone))
        if not len(everyone):
            return everyone, None
        scores, boxes = self._of_negatives(among)
        sure = scores > self.score_thr
        valid, rest = everyone[sure], everyone[~sure]
        if not len(valid):
            # Upstream uses up a random permutation even where all are taken.
            chosen = torch.randperm(len(everyone), generator=among.generator)[:count]
            return everyone[chosen], torch.ones(count)
        refuse_pairs(len(valid) ** 2, "negatives above score_thr")
        ranks = local_ranks(boxes[sure], scores[sure], self.iou_thr)
        importance = len(valid) - ranks + scores[sure]
        ranked = valid[importance.argsort(descending=True, stable=True)[:count]]
        missing = count - len(ranked)
        if missing:
            order = torch.randperm(len(rest), generator=among.generator)
            ranked = torch.cat((ranked, rest[order[:missing]]))
        return ranked, self._weights(losses_of(among)[ranked], len(valid))

    def _of_negatives(self, among: Candidates) -> tuple[Tensor, Tensor]:
        """The largest probability of a class, and the boxes, of each negative."""
        given = among.predicted
        if given is None or given.scores is None or given.boxes is None:
            raise RefusedError("sampler", "must be given scores and boxes of the priors", None)
        count = len(among.gt_inds)
        fits = len(given.scores) == len(given.boxes) == count
        said = [len(given.scores), len(given.boxes)]
        require(fits, "sampler", f"must be given scores and boxes of {count} priors", said)
        logits, boxes = (one.cpu()[among.negatives] for one in (given.scores, given.boxes))
        return logits.softmax(-1)[:, :-1].amax(-1), boxes

    def _weights(self, losses: Tensor, valid: int) -> Tensor:
        """Weights of the chosen ones, of which the first are ranked; the sum of losses stays."""
        ranked, bound = min(valid, len(losses)), max(valid, len(losses))
        linear = (bound - torch.arange(len(losses)).clamp(max=ranked - 1)) / bound
        weights = (self.bias + (1 - self.bias) * linear).pow(self.k)
        return weights * (losses.sum() / (losses * weights).sum())


def losses_of(among: Candidates) -> Tensor:
    """What each candidate costs, on the CPU."""
    count = len(among.gt_inds)
    given = None if among.losses is None else list(among.losses.shape)
    if among.losses is None or given != [count]:
        raise RefusedError("sampler", f"must be given the losses of {count} priors", given)
    return among.losses.cpu()


def hardest(among: Candidates, indices: Tensor, count: int) -> Tensor:
    """Of the indices, in order, so many that cost most; the first of equals."""
    if len(indices) <= count:
        return indices
    order = losses_of(among)[indices].argsort(descending=True, stable=True)
    return indices[order[:count]].sort().values


def local_ranks(boxes: Tensor, scores: Tensor, iou_thr: float) -> Tensor:
    """The place of each box in its group, from 0, int64 [n].

    The best box takes all that overlap it into its group, by their scores; then the best of the rest.
    """
    ranks = torch.zeros(len(boxes), dtype=torch.int64)
    rest = scores.argsort(descending=True, stable=True)
    while len(rest):
        best, rest = rest[0], rest[1:]
        near = iou(boxes[best], boxes[rest], eps=0.0) >= iou_thr
        group = rest[near]
        ranks[group] = torch.arange(1, len(group) + 1)
        rest = rest[~near]
    return ranks
