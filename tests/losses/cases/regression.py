"""Differences: boxes, offsets, maps."""

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


CASES = [
    Case({"type": "L1Loss"}, boxes, each(lambda p, t: abs(p - t))),
    Case({"type": "SmoothL1Loss"}, boxes, each(smooth_l1(1.0))),
    Case({"type": "SmoothL1Loss", "beta": 0.11}, boxes, each(smooth_l1(0.11))),
    Case({"type": "MSELoss"}, boxes, each(lambda p, t: (p - t) ** 2)),
]
