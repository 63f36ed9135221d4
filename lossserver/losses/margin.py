"""Squared errors of similarities, with margins and hard negatives."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lossserver.losses.cotangent import EPS, Cotangent
from lossserver.losses.loss import Call, ReducedLoss, floating, require, tensor_of
from lossserver.registry import LOSSES, RefusedError

#: Seeds of NumPy's generator are below this.
SEEDS = 1 << 32


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class L2Loss(ReducedLoss):
    """Squared error of similarities, with margins, and with no more negatives than wanted.

    ℓ = (p - t)²;  p = pred less the margin of its kind, within [0, 1]

    t is target, and -1 where the weight is not above 0. Where there are more
    than neg_pos_ub negatives to a positive, the others weigh nothing. The mean
    is over the elements whose weight is above 0.

    Parameters:
        neg_pos_ub: most negatives for each positive; 0 or less is no bound.
        pos_margin: taken from pred of positives, in units of pred; 0 or less
            is none.
        neg_margin: taken from pred of negatives.
        hard_mining: keep the negatives of the greatest ℓ, not random ones.
        reduction: "mean" or "none"; "sum" is refused, as upstream.
        loss_weight: factor of the result.

    Inputs:
        pred: similarities, float, of any shape.
        target: 1 for a positive, 0 for a negative, shaped like pred. Any other
            value is compared, but has no margin and is not mined.
        weight: shaped like pred. One below 0 counts, against t = -1.
        seed: whole number in 0..2³² - 1, which random negatives are kept; 0 if
            absent. The choice is that of `numpy.random.seed(seed)` upstream.

    Returns:
        Unreduced float, shaped like pred, in units of pred squared. avg_factor
        is ignored, as upstream.

    Raises:
        ValueError: reduction "sum", target or weight not shaped like pred, or a
            seed out of range.

    Source:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object
        Tracking, 2021, arXiv:2006.06664 (its auxiliary loss). Same values as
        MMDetection 3.3.0 `L2Loss`.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "seed"})

    neg_pos_ub: int = -1
    pos_margin: float = -1.0
    neg_margin: float = -1.0
    hard_mining: bool = False

    def check(self, call: Call) -> None:
        pred, _, weight = self._fit(call)
        self._ends(call, pred, weight)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, target, weight = self._fit(call)
        target = target.to(pred.dtype).masked_fill(weight <= 0, -1)
        positive, negative = target == 1, target == 0
        rows = (self._less_margins(pred, positive, negative) - target).square()
        surplus = self._surplus(rows.detach(), positive, negative, call.inputs.get("seed") or 0)
        weight = weight.masked_fill(surplus, 0)
        return {"loss": self._ends(call, pred, weight).value(rows)}

    def _fit(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, target and weight of a call that fits."""
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        sent = call.inputs.get("weight") is not None
        weight = tensor_of(call, "weight") if sent else torch.ones_like(pred)
        for name, given in (("target", target), ("weight", weight)):
            fits, rule = given.shape == pred.shape, f"must be shaped like pred, {list(pred.shape)}"
            require(fits, name, rule, list(given.shape))
        seed = call.inputs.get("seed")
        if seed is not None and not (type(seed) is int and 0 <= seed < SEEDS):
            raise RefusedError("seed", f"must be a whole number in 0..{SEEDS - 1}", _short(seed))
        return pred, target, weight

    def _ends(self, call: Call, pred: Tensor, weight: Tensor) -> Cotangent:
        """Weight, reduce and scale; the divisor is the count of weights above 0."""
        reduction = self.reduction_of(call)
        if reduction not in ("mean", "none"):
            of_call = call.reduction_override is not None
            field = "reduction_override" if of_call else "config.reduction"
            raise RefusedError(field, "must be mean or none: the divisor is given", reduction)
        # Upstream adds EPS to a count in float32, where it is lost from 2 on.
        divisor = float(torch.count_nonzero(weight > 0).float() + EPS)
        return self.ends(
            replace(call, avg_factor=None),
            tuple(pred.shape),
            weight=weight,
            avg_factor=divisor - EPS,
        )

    def _less_margins(self, pred: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if self.pos_margin > 0:
            pred = torch.where(positive, pred - self.pos_margin, pred)
        if self.neg_margin > 0:
            pred = torch.where(negative, pred - self.neg_margin, pred)
        return pred.clamp(min=0, max=1)

    def _surplus(self, losses: Tensor, positive: Tensor, negative: Tensor, seed: int) -> Tensor:
        """Where the negatives are (bool, shaped like losses) that neg_pos_ub leaves out."""
        positives, negatives = int(positive.sum()), int(negative.sum())
        if self.neg_pos_ub <= 0 or negatives / (positives + 1e-6) <= self.neg_pos_ub:
            return torch.zeros_like(negative)
        surplus = negative.flatten()
        candidates = surplus.nonzero().squeeze(1)
        wanted = positives * self.neg_pos_ub
        if self.hard_mining:
            kept = losses.flatten()[candidates].topk(wanted).indices
        else:
            kept = _shuffled(negatives, seed)[:wanted].to(candidates.device)
        return surplus.index_fill(0, candidates[kept], False).view_as(negative)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class MarginL2Loss(L2Loss):
    """Squared error of similarities, with margins: the values of L2Loss.

    Upstream has both, under these names. They differ in the types of target and
    weight that they take, and here not even in that.

    Parameters:
        neg_pos_ub: most negatives for each positive; 0 or less is no bound.
        pos_margin: taken from pred of positives; 0 or less is none.
        neg_margin: taken from pred of negatives.
        hard_mining: keep the negatives of the greatest ℓ, not random ones.
        reduction: "mean" or "none"; "sum" is refused, as upstream.
        loss_weight: factor of the result.

    Inputs:
        pred: similarities, float, of any shape.
        target: 1 for a positive, 0 for a negative, shaped like pred.
        weight: shaped like pred.
        seed: whole number, which random negatives are kept; 0 if absent.

    Returns:
        Unreduced float, shaped like pred, in units of pred squared.

    Raises:
        ValueError: as of L2Loss.

    Source:
        As of L2Loss. Same values as MMDetection 3.3.0 `MarginL2Loss`.
    """


def _short(value: object) -> object:
    return value if isinstance(value, int | float) else type(value).__name__


def _shuffled(count: int, seed: int) -> Tensor:
    """0..count - 1 in the order of upstream's np.random.shuffle after np.random.seed(seed)."""
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    return torch.from_numpy(order)
