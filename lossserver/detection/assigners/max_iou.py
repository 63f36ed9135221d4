"""Objects go to the priors that overlap them enough, and to those that overlap them most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import IGNORED, NEGATIVE, Assigned, Predicted
from lossserver.detection.assigners.common import OverlapAssigner, background, labels_of, rows_of
from lossserver.detection.assigners.pairs import Pairs, bounds_of, covered
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class MaxIoUAssigner(OverlapAssigner):
    """Objects to priors by overlap; o is a prior's largest, and ô an object's.

    A prior is ignored, unless o is in [0, neg_iou_thr): then it is negative;
    or o ≥ pos_iou_thr: then it is the first object's that overlaps it by o.
    At last each object with ô ≥ min_pos_iou takes the priors that overlap it
    by ô, later objects from earlier ones.

    Parameters:
        pos_iou_thr: least o of a positive.
        neg_iou_thr: o of a negative is below it, or in [low, high) of a pair. As
            upstream, a whole number (0, 1) makes no prior negative.
        min_pos_iou: least ô of an object that takes its best priors. At 0 an
            object without overlaps takes all priors that it does not overlap.
        gt_max_assign_all: it takes all priors of overlap ô, not only the first.
        ignore_iof_thr: a prior with more than this share of it in an ignored
            region counts as overlapping each object by -1; not above 0 is none.
        ignore_wrt_candidates: that is the share of the prior, not of the region.
        match_low_quality: objects take their best priors at all.
        iou_calculator: config of the overlap.
        perm_repeat_gt_cfg: must be None: upstream's random shift of equal
            objects is not offered.

    gpu_assign_thr is taken and not read.

    Source:
        Ren et al., Faster R-CNN, 2015, arXiv:1506.01497, section 3.1.2.
        MMDetection 3.3.0, `MaxIoUAssigner`.
    """

    UNREAD: ClassVar[frozenset[str]] = frozenset({"gpu_assign_thr"})

    pos_iou_thr: float
    neg_iou_thr: int | float | tuple[float, ...]
    min_pos_iou: float = 0.0
    gt_max_assign_all: bool = True
    ignore_iof_thr: float = -1.0
    ignore_wrt_candidates: bool = True
    match_low_quality: bool = True
    perm_repeat_gt_cfg: None = None

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
        if not len(priors) or not len(image.boxes):
            return background(priors)
        pairs = self._pairs(priors, image)
        largest = pairs.largest()
        overlaps = largest.of_prior
        gt_inds = overlaps.new_full((len(priors),), IGNORED, dtype=torch.int64)
        if (bounds := bounds_of(self.neg_iou_thr)) is not None:
            gt_inds[(overlaps >= bounds[0]) & (overlaps < bounds[1])] = NEGATIVE
        positive = (overlaps >= self.pos_iou_thr).nonzero().squeeze(1)
        gt_inds[positive] = pairs.owners(positive) + 1
        if self.match_low_quality:
            claiming = largest.of_object >= self.min_pos_iou
            claims = pairs.claims(largest, claiming, every=self.gt_max_assign_all)
            gt_inds = torch.where(claims > 0, claims, gt_inds)
        return Assigned(gt_inds=gt_inds, overlaps=overlaps, labels=labels_of(gt_inds, image))

    def _pairs(self, priors: Tensor, image: Image) -> Pairs:
        ignored = covered(
            self.calculator,
            priors,
            image.ignored,
            self.ignore_iof_thr,
            of_priors=self.ignore_wrt_candidates,
        )
        return Pairs(calculator=self.calculator, objects=image.boxes, priors=priors, hidden=ignored)
