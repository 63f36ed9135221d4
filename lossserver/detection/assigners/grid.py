"""Objects go to the priors of the cells that their centres are in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import IGNORED, NEGATIVE, Assigned, Predicted
from lossserver.detection.assigners.common import (
    OverlapAssigner,
    background,
    labels_of,
    responsible_of,
    rows_of,
)
from lossserver.detection.assigners.pairs import Pairs, bounds_of
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class GridAssigner(OverlapAssigner):
    """Objects to priors by overlap, among the priors of responsible cells.

    A prior is ignored, unless its largest overlap is in [0, neg_iou_thr]: then it
    is negative. A responsible one whose largest overlap is above pos_iou_thr is the
    first object's that it overlaps so. At last each object whose largest overlap
    with responsible priors is above min_pos_iou takes the ones it overlaps so,
    later objects from earlier ones.

    The overlaps returned are -1 where a prior is not responsible.

    Parameters:
        pos_iou_thr: overlap of a positive is above it.
        neg_iou_thr: overlap of a negative is at most it, or in (low, high] of a
            pair. As upstream, a whole number (0, 1) makes no prior negative.
        min_pos_iou: overlap of an object that takes its best priors is above it.
        gt_max_assign_all: it takes all of them, not only the first.
        iou_calculator: config of the overlap.

    Needs to be told which priors are responsible: whose cell an object's centre is in.

    Source:
        Redmon and Farhadi, YOLOv3, 2018, arXiv:1804.02767, section 2.1.
        MMDetection 3.3.0, `GridAssigner`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"responsible"})

    pos_iou_thr: float
    neg_iou_thr: int | float | tuple[float, ...]
    min_pos_iou: float = 0.0
    gt_max_assign_all: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds_of(self.neg_iou_thr)

    @torch.no_grad()
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        priors = rows_of(priors, 4)
        responsible = responsible_of(predicted, len(priors))
        if not len(priors) or not len(image.boxes):
            return background(priors)
        every = Pairs(calculator=self.calculator, objects=image.boxes, priors=priors)
        gt_inds = self._negatives(every.largest().of_prior)
        pairs = Pairs(
            calculator=self.calculator, objects=image.boxes, priors=priors, hidden=~responsible
        )
        largest = pairs.largest()
        above = responsible & (largest.of_prior > self.pos_iou_thr)
        positive = above.nonzero().squeeze(1)
        gt_inds[positive] = pairs.owners(positive) + 1
        claiming = largest.of_object > self.min_pos_iou
        claims = pairs.claims(largest, claiming, every=self.gt_max_assign_all)
        gt_inds = torch.where(responsible & (claims > 0), claims, gt_inds)
        return Assigned(
            gt_inds=gt_inds, overlaps=largest.of_prior, labels=labels_of(gt_inds, image)
        )

    def _negatives(self, overlaps: Tensor) -> Tensor:
        gt_inds = overlaps.new_full(overlaps.shape, IGNORED, dtype=torch.int64)
        if (bounds := bounds_of(self.neg_iou_thr)) is not None:
            low, high = bounds
            over = overlaps > low if isinstance(self.neg_iou_thr, tuple) else overlaps >= low
            gt_inds[over & (overlaps <= high)] = NEGATIVE
        return gt_inds
