"""Losses of heat maps of key points."""

import math

from tests.losses.case import Case, Inputs, each, uniform


def heat_maps(rows: int) -> Inputs:
    """Probabilities and heat maps [N, 2, 3], some of whose elements are peaks."""
    heat = uniform(rows, 2, 3, seed=1)
    return {
        "pred": 0.05 + 0.9 * uniform(rows, 2, 3),
        "target": heat.masked_fill(heat > 0.7, 1),
    }


def gaussian_focal(
    alpha: float = 2, gamma: float = 4, pos_weight: float = 1, neg_weight: float = 1
):
    """Eq. 1 of arXiv:1808.01244, with 1e-12 in the logarithms."""

    def element(p: float, t: float) -> float:
        if t == 1:
            return -pos_weight * (1 - p) ** alpha * math.log(p + 1e-12)
        return -neg_weight * (1 - t) ** gamma * p**alpha * math.log(1 - p + 1e-12)

    return each(element)


CASES = [
    Case({"type": "GaussianFocalLoss"}, heat_maps, gaussian_focal()),
    Case(
        {
            "type": "GaussianFocalLoss",
            "alpha": 1.5,
            "gamma": 3.0,
            "pos_weight": 0.7,
            "neg_weight": 1.4,
        },
        heat_maps,
        gaussian_focal(1.5, 3, 0.7, 1.4),
    ),
]
