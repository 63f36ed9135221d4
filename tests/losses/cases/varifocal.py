"""Varifocal loss."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, each, normal, sigmoid, uniform


def qualities(rows: int) -> Inputs:
    """Scores [N, 3], and a quality for each: 0 for about half of them."""
    rated = uniform(rows, 3, seed=2) < 0.5
    return {"pred": 2 * normal(rows, 3), "target": uniform(rows, 3, seed=1) * rated}


def varifocal(alpha: float, gamma: float, weigh: Callable[[float], float]):
    """Eq. 2 of arXiv:2008.13367; `weigh` is the weight of a positive."""

    def element(x: float, q: float) -> float:
        p = sigmoid(x)
        if q > 0:
            return -weigh(q) * (q * math.log(p) + (1 - q) * math.log(1 - p))
        return -alpha * p**gamma * math.log(1 - p)

    return each(element)


CASES = [
    Case({"type": "VarifocalLoss"}, qualities, varifocal(0.75, 2, lambda q: q)),
    Case(
        {"type": "VarifocalLoss", "alpha": 0.4, "gamma": 1.3, "iou_weighted": False},
        qualities,
        varifocal(0.4, 1.3, lambda _: 1),
    ),
]
