"""Objects go to as many priors each: those whose boxes, sent or predicted, are nearest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import IGNORED, MAX_CANDIDATES, NEGATIVE, Assigned, Predicted
from lossserver.detection.assigners.common import (
    OverlapAssigner,
    background,
    boxes_of,
    labels_of,
    rows_of,
    with_sides,
)
from lossserver.detection.assigners.pairs import Pairs, spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import require


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class UniformAssigner(OverlapAssigner):
    """Objects to match_times priors each by predicted box, and as many by prior.

    Nearest in the sum of absolute differences of centre and sides. A prior whose
    predicted box overlaps an object more than neg_ignore_thr is ignored, and so is
    a match whose prior overlaps its object less than pos_ignore_thr. A prior that
    is matched several times is the last match's: nearest first, then by predicted
    boxes before by priors, then by object.

    There are no overlaps of priors. Extras, of the K matches in that order, and none
    of an image without objects: `pos_inds`, int64 [K], their priors; `pos_gt_inds`,
    int64 [K], their objects; `pos_idx`, bool [K], whether they are not ignored; and
    `gt_max_overlaps`, float32 [N], of objects with priors, upstream's max_overlaps.

    Parameters:
        pos_ignore_thr: least overlap of a match's prior.
        neg_ignore_thr: largest overlap of a negative's predicted box.
        match_times: matches an object by predicted box, and by prior; all priors
            where there are fewer.
        iou_calculator: config of the overlap.

    Needs boxes.

    Source:
        Chen et al., You Only Look One-level Feature (YOLOF), 2021,
        arXiv:2103.09460, section 4.2. MMDetection 3.3.0, `UniformAssigner`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"boxes"})

    pos_ignore_thr: float
    neg_ignore_thr: float
    match_times: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"must be in 1..{MAX_CANDIDATES}"
        require(1 <= self.match_times <= MAX_CANDIDATES, "match_times", rule, self.match_times)

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
        boxes = boxes_of(predicted, count)
        if not count or not len(image.boxes):
            return self._without_matches(priors, image)
        by_prediction, by_prior = (
            Pairs(calculator=self.calculator, objects=image.boxes, priors=one).largest()
            for one in (boxes, priors)
        )
        over = by_prediction.of_prior > self.neg_ignore_thr
        places = torch.cat([self._nearest(boxes, image), self._nearest(priors, image)], 1)
        objects = torch.arange(len(image.boxes), device=places.device).repeat(len(places) * 2)
        places = places.flatten()
        low = self.calculator(priors[places], image.boxes[objects]) < self.pos_ignore_thr
        order = torch.arange(len(places), device=places.device)
        last = places.new_full((count,), -1).scatter_reduce(0, places, order, "amax")
        matched = torch.where(low, IGNORED, objects + 1)[last.clamp(min=0)]
        gt_inds = torch.where(last >= 0, matched, torch.where(over, IGNORED, NEGATIVE))
        return Assigned(
            gt_inds=gt_inds,
            overlaps=None,
            labels=labels_of(gt_inds, image),
            extras={
                "pos_inds": places,
                "pos_gt_inds": objects,
                "pos_idx": ~low,
                "gt_max_overlaps": by_prior.of_object,
            },
        )

    def _nearest(self, boxes: Tensor, image: Image) -> Tensor:
        """The nearest boxes [K, N] of N objects, the nearest first."""
        sides, own = with_sides(boxes), with_sides(image.boxes)
        most = min(self.match_times, len(boxes))
        found = image.labels.new_empty(len(own), most)
        for span in spans(len(own), len(sides), boxes.device):
            ways = torch.cdist(own[span], sides, p=1)
            found[span] = ways.topk(most, largest=False).indices
        return found.t()

    def _without_matches(self, priors: Tensor, image: Image) -> Assigned:
        none = priors.new_zeros(0, dtype=torch.int64)
        extras = {
            "pos_inds": none,
            "pos_gt_inds": none,
            "pos_idx": none.bool(),
            "gt_max_overlaps": priors.new_zeros(len(image.boxes)),
        }
        return replace(background(priors, overlaps=False), extras=extras)
