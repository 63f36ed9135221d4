"""Differences: boxes, offsets, maps."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, each, normal


def boxes(rows: int) -> Inputs:
    """Two sets of four numbers."""
    return {"pred": 3 * normal(rows, 4), "target": 3 * normal(rows, 4, seed=1)}


def smooth_l1(beta: float) -> Callable[[float, float], float]:
    """Eq. 3 of arXiv:1504.08083, with the square's end at beta."""

    def formula(pred: float, target: float) -> float:
        d = abs(pred - target)
        return d * d / (2 * beta) if d < beta else d - beta / 2

    return formula


def balanced_l1(alpha: float, gamma: float, beta: float) -> Callable[[float, float], float]:
    """The loss of arXiv:1904.02701, with upstream's beta."""
    b = math.exp(gamma / alpha) - 1

    def formula(pred: float, target: float) -> float:
        d = abs(pred - target)
        if d < beta:
            return alpha / b * (b * d + 1) * math.log(b * d / beta + 1) - alpha * d
        return gamma * d + gamma / b - alpha * beta

    return formula


CASES = [
    Case({"type": "L1Loss"}, boxes, each(lambda p, t: abs(p - t))),
    Case({"type": "SmoothL1Loss"}, boxes, each(smooth_l1(1.0))),
    Case({"type": "SmoothL1Loss", "beta": 0.11}, boxes, each(smooth_l1(0.11))),
    Case({"type": "BalancedL1Loss"}, boxes, each(balanced_l1(0.5, 1.5, 1.0))),
    Case(
        {"type": "BalancedL1Loss", "alpha": 0.2, "gamma": 2.0, "beta": 3.0},
        boxes,
        each(balanced_l1(0.2, 2.0, 3.0)),
    ),
    Case({"type": "MSELoss"}, boxes, each(lambda p, t: (p - t) ** 2)),
]
