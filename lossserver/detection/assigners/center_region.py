"""Objects go to the priors in the middle of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossserver.detection.assigned import IGNORED, NEGATIVE, Assigned, Predicted
from lossserver.detection.assigners.common import (
    OverlapAssigner,
    background,
    centres,
    inside,
    labels_of,
    rows_of,
)
from lossserver.detection.assigners.pairs import spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class CenterRegionAssigner(OverlapAssigner):
    """Objects to priors in their cores; what is around a core is in its shadow.

    A prior is in the core of an object if its centre is in the object and more
    than min_pos_iof of its area is in the object shrunk to pos_scale. It is in the
    shadow if more than that is in the object shrunk to neg_scale and it is not in
    the core. It is the smallest object's in whose core it is, the last of equals,
    and in the shadows of the others.

    There are no overlaps. Extras, for the losses of which a prior in shadow takes no
    part: `shadowed`, bool [n, U], and `shadowed_classes`, int64 [U], the distinct
    classes of objects: whether a prior is in the shadow of one of that class.

    Parameters:
        pos_scale: of the sides of the core.
        neg_scale: of the sides of core and shadow.
        min_pos_iof: share of a prior's area.
        ignore_gt_scale: a prior is ignored if its centre is in an ignored region
            shrunk by this.
        foreground_dominate: a prior in the shadow of another object of its class
            stays positive; else it becomes negative and is in the shadow.
        iou_calculator: config of the overlap.

    Source:
        Zhu et al., Feature Selective Anchor-Free Module (FSAF), 2019,
        arXiv:1903.00621, section 3.2. MMDetection 3.3.0, `CenterRegionAssigner`,
        whose pairs `shadowed_labels` are the places of `shadowed`.
    """

    pos_scale: float
    neg_scale: float
    min_pos_iof: float = 1e-2
    ignore_gt_scale: float = 0.5
    foreground_dominate: bool = False

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
        classes, class_of = image.labels.unique(return_inverse=True)
        ignored = self._ignored(priors, image)
        if not len(priors) or not len(image.boxes):
            shadowed = priors.new_zeros(len(priors), len(classes), dtype=torch.bool)
            gt_inds = torch.where(ignored, IGNORED, NEGATIVE)
            extras = {"shadowed": shadowed, "shadowed_classes": classes}
            return replace(background(priors, overlaps=False), gt_inds=gt_inds, extras=extras)
        gt_inds, shadowed = self._regions(priors, image, class_of, len(classes))
        gt_inds = gt_inds.masked_fill(ignored, IGNORED)
        own = class_of[(gt_inds - 1).clamp(min=0)][:, None]
        both = (gt_inds > 0) & shadowed.gather(1, own).squeeze(1)
        if self.foreground_dominate:
            shadowed = shadowed.scatter(1, own, shadowed.gather(1, own) & ~both[:, None])
        else:
            gt_inds = gt_inds.masked_fill(both, NEGATIVE)
        return Assigned(
            gt_inds=gt_inds,
            overlaps=None,
            labels=labels_of(gt_inds, image),
            extras={"shadowed": shadowed, "shadowed_classes": classes},
        )

    def _ignored(self, priors: Tensor, image: Image) -> Tensor:
        """Whether a prior's centre is in an ignored region, bool [n]."""
        regions, (x, y) = _scaled(image.ignored, self.ignore_gt_scale)[:, None], centres(priors)
        found = priors.new_zeros(len(priors), dtype=torch.bool)
        for span in spans(len(priors), len(regions), priors.device):
            found[span] = inside(x[span], y[span], regions, 0).any(0)
        return found

    def _regions(
        self, priors: Tensor, image: Image, class_of: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """k + 1 for the object k in whose core a prior is, int64 [n], and the shadows, [n, U]."""
        boxes, (x, y) = image.boxes[:, None], centres(priors)
        core = _scaled(image.boxes, self.pos_scale)[:, None]
        wider = _scaled(image.boxes, self.neg_scale)[:, None]
        width, height = (image.boxes[:, 2:] - image.boxes[:, :2]).unbind(1)
        smaller_last = (width * height).sort(descending=True, stable=True).indices
        rank = smaller_last.argsort()[:, None] + 1
        found = image.labels.new_empty(len(priors))
        shadows = priors.new_empty(len(priors), classes, dtype=torch.bool)
        for span in spans(len(priors), len(boxes), priors.device):
            own = priors[span]
            in_core = self.calculator(own, core, "iof") > self.min_pos_iof
            in_core &= inside(x[span], y[span], boxes, 0)
            ranks = torch.where(in_core, rank, 0)
            first = ranks.amax(0)
            shadow = (self.calculator(own, wider, "iof") > self.min_pos_iof) | in_core
            shadow &= (ranks != first) | (first == 0)
            objects = smaller_last[(first - 1).clamp(min=0)] + 1
            found[span] = torch.where(first > 0, objects, NEGATIVE)
            counts = shadow.new_zeros(classes, len(own), dtype=torch.int32)
            shadows[span] = (counts.index_add_(0, class_of, shadow.int()) > 0).t()
        return found, shadows


def _scaled(boxes: Tensor, scale: float) -> Tensor:
    """The boxes with their sides scaled, about their centres."""
    x, y = ((boxes[:, 2] + boxes[:, 0]) * 0.5, (boxes[:, 3] + boxes[:, 1]) * 0.5)
    width = (boxes[:, 2] - boxes[:, 0]) * 0.5 * scale
    height = (boxes[:, 3] - boxes[:, 1]) * 0.5 * scale
    return torch.stack([x - width, y - height, x + width, y + height], 1)
