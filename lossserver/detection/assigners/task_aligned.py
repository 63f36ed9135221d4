"""Objects go to the priors that classify and locate them best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import MAX_CANDIDATES, Assigned, Predicted
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
from lossserver.detection.assigners.pairs import spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import require

#: Upstream's infinity: less than any overlap.
INF = 1e8

#: Pixels that a positive's centre is within its object, at least.
MARGIN = 0.01


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class TaskAlignedAssigner(OverlapAssigner):
    """Objects to priors by what they predict: m = score^α · IoU(predicted box)^β.

    The topk priors of largest m are the object's if m > 0 and their centres are in
    it. Of several objects a prior is that one's that its predicted box overlaps
    most, the first of equals.

    The overlaps returned are -1e8 where there is no object. Extras:
    `assign_metrics`, float32 [n], is m, and 0 where there is no object.

    Parameters:
        topk: priors an object, of all levels.
        alpha: exponent α of the score. Upstream takes it from train_cfg, as it does β.
        beta: exponent β of the overlap.
        iou_calculator: config of the overlap.

    Needs scores (probabilities) and boxes.

    Source:
        Feng et al., TOOD, 2021, arXiv:2108.07755, section 3.2.
        MMDetection 3.3.0, `TaskAlignedAssigner`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"scores", "boxes"})

    topk: int
    alpha: float = 1.0
    beta: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = f"must be in 1..{MAX_CANDIDATES}"
        require(1 <= self.topk <= MAX_CANDIDATES, "topk", rule, self.topk)

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
        scores, boxes = scores_of(predicted, count, image), boxes_of(predicted, count)
        if not count or not len(image.boxes):
            return replace(background(priors), extras={"assign_metrics": priors.new_zeros(count)})
        metrics, places = self._candidates(scores, boxes, image)
        objects = torch.arange(len(image.boxes), device=places.device)[:, None].expand_as(places)
        own = image.boxes[:, None]
        positive = (metrics > 0) & inside(*centres(priors[places]), own, MARGIN)
        overlaps = torch.where(positive, self.calculator(boxes[places], own), -INF)
        best, gt_inds = won(count, places.flatten(), objects.flatten(), overlaps.flatten(), -INF)
        labels, given = labels_of(gt_inds, image), (gt_inds - 1).clamp(min=0)
        metric = self._metric(
            scores.gather(1, labels.clamp(min=0)[:, None]).squeeze(1),
            self.calculator(boxes, image.boxes[given]),
        )
        extras = {"assign_metrics": torch.where(gt_inds > 0, metric, 0.0)}
        return Assigned(gt_inds=gt_inds, overlaps=best, labels=labels, extras=extras)

    def _metric(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        return scores**self.alpha * overlaps**self.beta

    def _candidates(self, scores: Tensor, boxes: Tensor, image: Image) -> tuple[Tensor, Tensor]:
        """The largest metrics [N, K] of N objects, and of which priors they are."""
        most = min(self.topk, len(boxes))
        values = boxes.new_empty(len(image.boxes), most)
        places = image.labels.new_empty(len(image.boxes), most)
        for span in spans(len(image.boxes), len(boxes), boxes.device):
            overlaps = self.calculator(boxes, image.boxes[span][:, None])
            metrics = self._metric(scores[:, image.labels[span]].t(), overlaps)
            values[span], places[span] = metrics.topk(most)
        return values, places
