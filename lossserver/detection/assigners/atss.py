"""Objects go to near priors that overlap them more than near priors usually do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.detection.assigned import IGNORED, MAX_CANDIDATES, Assigned, Predicted
from lossserver.detection.assigners.common import (
    OverlapAssigner,
    background,
    boxes_of,
    centres,
    inside,
    labels_of,
    rows_of,
    scores_of,
    won,
)
from lossserver.detection.assigners.pairs import covered, spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import require

#: Upstream's infinity: the distance of an ignored prior, and less than any overlap.
INF = 1e8

#: Pixels that a positive's centre is within its object, at least.
MARGIN = 0.01


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class ATSSAssigner(OverlapAssigner):
    """Objects to priors by overlap, above a threshold of each object's own.

    Candidates are the topk priors of each level whose centres are nearest to the
    object's. A candidate is positive if its overlap is at least t = mean + standard
    deviation of all candidates' overlaps, and its centre is in the object. Of
    several objects a prior is that one's that it overlaps most, the first of equals.

    The overlaps returned are -1e8 where there is no object.

    Parameters:
        topk: candidates a level; all priors of a level that has fewer.
        alpha: with it, overlaps are σ(score)^(1 - α) · IoU(predicted box)^α, which
            needs scores (logits) and boxes; None is the priors' IoU.
        iou_calculator: config of the overlap.
        ignore_iof_thr: a prior with more than this share of it in an ignored region
            is ignored, and a candidate only where there are too few others; not
            above 0 is none.

    Source:
        Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free
        Detection, 2020, arXiv:1912.02424, algorithm 1; with alpha, Chen et al.,
        DDOD, 2021, arXiv:2107.02963. MMDetection 3.3.0, `ATSSAssigner`.
    """

    topk: int
    alpha: float | None = None
    ignore_iof_thr: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"must be in 1..{MAX_CANDIDATES}"
        require(1 <= self.topk <= MAX_CANDIDATES, "topk", rule, self.topk)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset() if self.alpha is None else frozenset({"scores", "boxes"})

    @torch.no_grad()
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        priors, count = rows_of(priors, 4), len(priors)
        rule = f"must say how many of the {count} priors each level has"
        require(sum(levels) == count, "levels", rule, list(levels))
        told = None
        if self.alpha is not None:
            told = scores_of(predicted, count, image), boxes_of(predicted, count)
        if not count or not len(image.boxes):
            return background(priors)
        ignored = covered(self.calculator, priors, image.ignored, self.ignore_iof_thr)
        places = self._nearest(priors, image, levels, ignored)
        objects = torch.arange(len(image.boxes), device=places.device).expand_as(places)
        overlaps = self._overlaps(priors[places], places, image, told)
        enough = overlaps >= _threshold(overlaps)
        positive = enough & inside(*centres(priors[places]), image.boxes, MARGIN)
        scores = torch.where(positive, overlaps, -INF)
        best, gt_inds = won(count, places.flatten(), objects.flatten(), scores.flatten(), -INF)
        labels = labels_of(gt_inds, image)
        if ignored is not None:
            gt_inds = torch.where(ignored & (gt_inds == 0), IGNORED, gt_inds)
        return Assigned(gt_inds=gt_inds, overlaps=best, labels=labels)

    def _nearest(
        self, priors: Tensor, image: Image, levels: Sequence[int], ignored: Tensor | None
    ) -> Tensor:
        """The candidates [K, N] of N objects."""
        x, y = centres(priors)
        own_x, own_y = centres(image.boxes[:, None])
        candidates = []
        for span in spans(len(image.boxes), len(priors), priors.device):
            way = (x - own_x[span]).square_().add_((y - own_y[span]).square_()).sqrt_()
            if ignored is not None:
                way.masked_fill_(ignored, INF)
            start, found = 0, []
            for level in levels:
                near = way[:, start : start + level].topk(min(self.topk, level), largest=False)
                found.append(near.indices + start)
                start += level
            candidates.append(torch.cat(found, 1))
        # In upstream's order, in which the mean is summed.
        return torch.cat(candidates).t().contiguous()

    def _overlaps(
        self, priors: Tensor, places: Tensor, image: Image, told: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The overlap [K, N] of each candidate with its object."""
        if told is None or self.alpha is None:
            return self.calculator(priors, image.boxes)
        scores, boxes = told
        sure = scores[places, image.labels].sigmoid()
        overlaps = self.calculator(boxes[places], image.boxes)
        return sure ** (1 - self.alpha) * overlaps**self.alpha


def _threshold(overlaps: Tensor) -> Tensor:
    """Mean and standard deviation [N] of overlaps [K, N]; NaN of a single one, as upstream."""
    if len(overlaps) == 1:
        return torch.full_like(overlaps[0], torch.nan)
    return overlaps.mean(0) + overlaps.std(0)
