"""Objects go to the points nearest to their centres, on the level of their size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.detection.assigned import MAX_CANDIDATES, Assigned, Assigner, Predicted
from lossserver.detection.assigners.common import background, labels_of, rows_of, won
from lossserver.detection.assigners.pairs import spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import require

#: Pixels that a side of an object counts as, at least.
EPS = 1e-6


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class PointAssigner(Assigner):
    """Objects to points by distance, the object's sides being the units.

    A point of stride s is on level ⌊log₂ s⌋, and an object on level
    ⌊(log₂(w / scale) + log₂(h / scale)) / 2⌋, or the nearest there is (⌊⌋ is to
    zero). It gets the pos_num points of its level nearest to its centre. Of several
    objects a point is the nearest one's, the first of equals.

    There are no overlaps.

    Parameters:
        scale: side in strides of an object that is on its points' level.
        pos_num: points an object; all of a level that has fewer.

    Priors are points with strides, [n, 3]: x, y, s.

    Source:
        Yang et al., RepPoints, 2019, arXiv:1904.11490, section 4.2.
        MMDetection 3.3.0, `PointAssigner`.
    """

    scale: int = 4
    pos_num: int = 3

    def __post_init__(self) -> None:
        require(self.scale >= 1, "scale", "must be at least 1", self.scale)
        rule = f"must be in 1..{MAX_CANDIDATES}"
        require(1 <= self.pos_num <= MAX_CANDIDATES, "pos_num", rule, self.pos_num)

    @torch.no_grad()
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        points = rows_of(priors, 3)
        if not len(points) or not len(image.boxes):
            return background(points, overlaps=False)
        own_level = points[:, 2].log2().int()
        centre = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2
        size = (image.boxes[:, 2:] - image.boxes[:, :2]).clamp(min=EPS)
        width, height = (size / self.scale).log2().unbind(1)
        level = ((width + height) / 2).int().clamp(own_level.min(), own_level.max())
        places, objects, ways = [], [], []
        for one in level.unique():
            there = (own_level == one).nonzero().squeeze(1)
            on_it = (level == one).nonzero().squeeze(1)
            for span in spans(len(on_it), len(there), points.device):
                rows = on_it[span]
                apart = (points[there, :2] - centre[rows][:, None]) / size[rows][:, None]
                nearest = apart.norm(dim=-1).topk(min(self.pos_num, len(there)), largest=False)
                places.append(there[nearest.indices].flatten())
                objects.append(rows[:, None].expand_as(nearest.indices).flatten())
                ways.append(nearest.values.flatten())
        way = torch.cat(ways)
        # The nearest is the one of largest score; a way that is not finite gives none.
        scores = torch.where(way < torch.inf, -way, -torch.inf)
        _, gt_inds = won(len(points), torch.cat(places), torch.cat(objects), scores, -torch.inf)
        return Assigned(gt_inds=gt_inds, overlaps=None, labels=labels_of(gt_inds, image))
