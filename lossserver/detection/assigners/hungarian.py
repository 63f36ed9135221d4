"""Objects go to one prediction each, such that all matches together cost least."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossserver.detection.assigned import Assigned, Assigner, Predicted
from lossserver.detection.assigners.common import background, labels_of
from lossserver.detection.assigners.costs import Cost
from lossserver.detection.images import Image
from lossserver.detection.parts import ASSIGNERS, COSTS
from lossserver.losses.assignment import assignment
from lossserver.losses.loss import refuse_pairs, require


@ASSIGNERS.register
@dataclass(frozen=True, kw_only=True)
class HungarianAssigner(Assigner):
    """Objects to predictions, one to one, at the least sum of costs.

    Predictions that are not matched are negative; so are all but as many as there
    are predictions of more objects. There are no overlaps.

    Parameters:
        match_costs: configs of costs, or of one, which are added:
            ClassificationCost, FocalLossCost, BBoxL1Cost, IoUCost.

    Of priors only the number is read. What it needs, scores (logits) or boxes
    (corners in pixels), depends on its costs; BBoxL1Cost needs img_shape, too. A
    cost that is not finite is more than any other.

    Source:
        Kuhn, The Hungarian Method for the Assignment Problem, 1955; Carion et al.,
        DETR, 2020, arXiv:2005.12872, section 3.1. MMDetection 3.3.0,
        `HungarianAssigner`.
    """

    match_costs: tuple[dict[str, Any], ...] | dict[str, Any]

    def __post_init__(self) -> None:
        require(len(self.match_costs) > 0, "match_costs", "must be costs", self.match_costs)
        _ = self.costs

    @cached_property
    def costs(self) -> list[Cost]:
        """The costs."""
        if isinstance(self.match_costs, dict):
            return [COSTS.part(self.match_costs, "match_costs")]
        return [
            COSTS.part(config, f"match_costs[{i}]") for i, config in enumerate(self.match_costs)
        ]

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(cost.NEEDS for cost in self.costs)

    @torch.no_grad()
    def assign(
        self,
        priors: Tensor,
        image: Image,
        *,
        levels: Sequence[int] = (),
        predicted: Predicted | None = None,
    ) -> Assigned:
        refuse_pairs(len(priors) * len(image.boxes), "predictions and objects")
        costs = [cost.formula(predicted, len(priors), image) for cost in self.costs]
        nothing = background(priors, overlaps=False)
        if not len(priors) or not len(image.boxes):
            return nothing
        rows, columns = assignment(torch.stack(costs).sum(0).cpu())
        gt_inds = nothing.gt_inds
        gt_inds[rows.to(gt_inds.device)] = columns.to(gt_inds.device) + 1
        return Assigned(gt_inds=gt_inds, overlaps=None, labels=labels_of(gt_inds, image))
