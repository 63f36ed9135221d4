"""Objects go to as many predictions each as overlap them, where they cost least."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.detection.assigned import Assigned, Predicted
from lossserver.detection.assigners.common import (
    OverlapAssigner,
    background,
    boxes_of,
    centres,
    inside,
    labels_of,
    rows_of,
    scores_of,
)
from lossserver.detection.assigners.pairs import spans
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import require

#: Upstream's infinity: what a prior costs more that is not in the middle of an object, and less
#: than any overlap.
INF = 1e5

#: Upstream's least overlap in a logarithm.
EPS = 1e-7


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class SimOTAAssigner(OverlapAssigner):
    """Objects to priors by the cost of what they predict.

    c = cls_weight · BCE(scores, one-hot class) - iou_weight · log(o + 1e-7) + 10^5 [outside]

    with o the IoU of predicted and object's box, and outside any prior that is not
    both in the object and within center_radius strides of its centre. Priors that
    are in or near no object are negative. An object gets the k others of least
    cost, k being the sum of its candidate_topk largest o, rounded down, and at
    least 1. A prior that several objects get is that one's, of all, for which it
    costs least.

    The overlaps returned are -1e5 where there is no object; 0 if all are negative.

    Parameters:
        center_radius: in strides of the prior.
        candidate_topk: overlaps that are added to k.
        iou_weight: factor of the overlap's cost.
        cls_weight: factor of the scores' cost.
        iou_calculator: config of the overlap.

    Priors are points with strides, [n, 4]: x, y, horizontal and vertical stride.
    Needs scores (probabilities) and boxes; a score that is not a number is taken as 0.

    Source:
        Ge et al., YOLOX, 2021, arXiv:2107.08430, section 2.3.
        MMDetection 3.3.0, `SimOTAAssigner`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"scores", "boxes"})

    center_radius: float = 2.5
    candidate_topk: int = 10
    iou_weight: float = 3.0
    cls_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.candidate_topk >= 1, "candidate_topk", "must be at least 1", self.candidate_topk
        )

    @torch.no_grad()
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        points, count = rows_of(priors, 4), len(priors)
        scores, boxes = scores_of(predicted, count, image), boxes_of(predicted, count)
        nothing = background(points)
        if not count or not len(image.boxes):
            return nothing
        near = self._near(points, image).nonzero().squeeze(1)
        if not len(near):
            return nothing
        costs = _Costs.of(self, points[near], scores[near], boxes[near], image)
        rows, objects = costs.matches()
        gt_inds, overlaps = nothing.gt_inds, points.new_full((count,), -INF)
        gt_inds[near[rows]] = objects + 1
        overlaps[near[rows]] = self.calculator(boxes[near[rows]], image.boxes[objects])
        return Assigned(gt_inds=gt_inds, overlaps=overlaps, labels=labels_of(gt_inds, image))

    def _near(self, points: Tensor, image: Image) -> Tensor:
        """Whether a prior is in an object or near a centre, bool [n]."""
        boxes, found = image.boxes[:, None], points.new_empty(len(points), dtype=torch.bool)
        for span in spans(len(points), len(boxes), points.device):
            in_box, in_middle = self.where(points[span], boxes)
            found[span] = (in_box | in_middle).any(0)
        return found

    def where(self, points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Whether points [R, 4] are in boxes [N, 1, 4], and near their centres; bool [N, R]."""
        x, y, *strides = points.unbind(1)
        own_x, own_y = centres(boxes)
        across, down = (self.center_radius * stride for stride in strides)
        in_middle = (x > own_x - across) & (x < own_x + across)
        in_middle &= (y > own_y - down) & (y < own_y + down)
        return inside(x, y, boxes, 0), in_middle


class _Costs(NamedTuple):
    """What it costs to give V priors, all in or near an object, one of N objects.

    Attributes:
        assigner: whose costs they are.
        points: float32 [V, 4].
        boxes: float32 [V, 4], predicted.
        hit, miss: float32 [V, C], the cross entropy of a score if it is of the object's class, and
            if it is not.
        all_missed: float64 [V], the sum of miss.
        image: with the objects.
    """

    assigner: SimOTAAssigner
    points: Tensor
    boxes: Tensor
    hit: Tensor
    miss: Tensor
    all_missed: Tensor
    image: Image

    @classmethod
    def of(
        cls, assigner: SimOTAAssigner, points: Tensor, scores: Tensor, boxes: Tensor, image: Image
    ) -> "_Costs":
        p = scores.nan_to_num(nan=0.0).clamp(0, 1)
        hit, miss = (F.binary_cross_entropy(p, one, reduction="none") for one in (p * 0 + 1, p * 0))
        return cls(assigner, points, boxes, hit, miss, miss.sum(1, dtype=torch.float64), image)

    def between(self, rows: Tensor | slice, objects: Tensor | slice) -> Tensor:
        """The costs [N, R] of some objects and some priors."""
        own, labels = self.image.boxes[objects][:, None], self.image.labels[objects]
        # All but one class are missed. In float64 nothing is lost by taking that one out again.
        classed = self.hit[rows][:, labels].double() - self.miss[rows][:, labels].double()
        scores = (self.all_missed[rows] + classed.t()).float()
        overlaps = self.assigner.calculator(self.boxes[rows], own)
        in_box, in_middle = self.assigner.where(self.points[rows], own)
        apart = -(overlaps + EPS).log()
        likely = scores * self.assigner.cls_weight + apart * self.assigner.iou_weight
        return likely + ~(in_box & in_middle) * INF

    def matches(self) -> tuple[Tensor, Tensor]:
        """The priors that get an object, among V, and the objects; int64 [P] each."""
        numbers, rows, objects = self._numbers(), [], []
        for span in spans(len(self.image.boxes), len(self.boxes), self.boxes.device):
            costs = self.between(slice(None), span)
            own = numbers[span]
            # Not the largest number for all, and then fewer: which of equal costs are found
            # depends on how many are looked for.
            for number in sorted(set(own)):
                those = [i for i, one in enumerate(own) if one == number]
                found = costs[those].topk(number, largest=False).indices
                rows.append(found.flatten())
                of_span = torch.tensor(those, device=found.device) + span.start
                objects.append(of_span.repeat_interleave(number))
        return self._settled(torch.cat(rows), torch.cat(objects))

    def _numbers(self) -> list[int]:
        """How many priors each object gets."""
        most = min(self.assigner.candidate_topk, len(self.boxes))
        found = self.boxes.new_empty(len(self.image.boxes), most)
        for span in spans(len(self.image.boxes), len(self.boxes), self.boxes.device):
            overlaps = self.assigner.calculator(self.boxes, self.image.boxes[span][:, None])
            found[span] = overlaps.topk(most).values
        # Summed in upstream's order: a sum near a whole number decides.
        total = found.t().contiguous().sum(0).nan_to_num(nan=0.0)
        numbers: list[int] = total.int().clamp(1, most).tolist()
        return numbers

    def _settled(self, rows: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """The matches, but a prior of several objects is that one's for which it costs least."""
        times = rows.bincount(minlength=len(self.boxes))
        owner = torch.zeros_like(times).scatter(0, rows, objects)
        several = (times > 1).nonzero().squeeze(1)
        for span in spans(len(several), len(self.image.boxes), rows.device):
            owner[several[span]] = self.between(several[span], slice(None)).argmin(0)
        taken = (times > 0).nonzero().squeeze(1)
        return taken, owner[taken]
