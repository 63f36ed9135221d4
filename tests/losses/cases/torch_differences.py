"""torch's losses of a difference."""

from collections.abc import Callable

from tests.losses.case import Case, Inputs, each, normal


def pairs(rows: int) -> Inputs:
    """Two sets of four numbers."""
    return {"pred": 3 * normal(rows, 4), "target": 3 * normal(rows, 4, seed=1)}


def bent(end: float, slope: float) -> Callable[[float, float], float]:
    """A square up to `end`, from where on it has this slope."""

    def formula(pred: float, target: float) -> float:
        d = abs(pred - target)
        return slope * d * d / (2 * end) if d < end else slope * (d - end / 2)

    return formula


CASES = [
    Case({"type": "torch.L1Loss"}, pairs, each(lambda p, t: abs(p - t)), wrt=("pred", "target")),
    Case({"type": "torch.MSELoss"}, pairs, each(lambda p, t: (p - t) ** 2), wrt=("pred", "target")),
    Case({"type": "torch.SmoothL1Loss"}, pairs, each(bent(1, 1))),
    Case({"type": "torch.SmoothL1Loss", "beta": 2.5}, pairs, each(bent(2.5, 1))),
    Case({"type": "torch.SmoothL1Loss", "beta": 0.0}, pairs, each(lambda p, t: abs(p - t))),
    Case({"type": "torch.HuberLoss"}, pairs, each(bent(1, 1))),
    Case({"type": "torch.HuberLoss", "delta": 2.5}, pairs, each(bent(2.5, 2.5))),
]
