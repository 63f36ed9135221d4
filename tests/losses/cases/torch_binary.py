"""torch's losses of yes and no."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, by_row, each, normal, sigmoid, uniform, whole

WEIGHTS = [0.5, 2.0, 3.0]


def probabilities(rows: int) -> Inputs:
    """Probabilities, and soft targets."""
    return {"pred": 0.05 + 0.9 * uniform(rows, 3), "target": uniform(rows, 3, seed=1)}


def logits(rows: int) -> Inputs:
    """Logits of 3 classes, and soft targets."""
    return {"pred": 2 * normal(rows, 3), "target": uniform(rows, 3, seed=1)}


def signs(rows: int) -> Inputs:
    """Scores, and labels of -1 and 1."""
    return {"pred": 2 * normal(rows, 3), "target": 2 * whole(rows, 3, high=1) - 1}


def entropy(p: float, t: float, w: float = 1) -> float:
    """-w t log p - (1 - t) log(1 - p)."""
    return -w * t * math.log(p) - (1 - t) * math.log(1 - p)


def mean_entropy(*weights: float) -> Callable[..., float]:
    """Of a row of logits, each class times its weight."""

    def row(pred: list[float], target: list[float]) -> float:
        triples = zip(pred, target, weights, strict=True)
        return sum(w * entropy(sigmoid(x), t) for x, t, w in triples) / len(pred)

    return row


def weighted_entropy(pred: list[float], target: list[float]) -> list[float]:
    """Of a row of logits, a weight a positive class."""
    return [entropy(sigmoid(x), t, w) for x, t, w in zip(pred, target, WEIGHTS, strict=True)]


CASES = [
    Case({"type": "torch.BCELoss"}, probabilities, each(entropy), wrt=("pred", "target")),
    Case(
        {"type": "torch.BCEWithLogitsLoss"},
        logits,
        each(lambda x, t: entropy(sigmoid(x), t)),
        wrt=("pred", "target"),
    ),
    Case(
        {"type": "torch.BCEWithLogitsLoss", "pos_weight": WEIGHTS}, logits, by_row(weighted_entropy)
    ),
    Case(
        {"type": "torch.BCEWithLogitsLoss", "pos_weight": [2.5]},
        logits,
        each(lambda x, t: entropy(sigmoid(x), t, 2.5)),
    ),
    Case({"type": "torch.MultiLabelSoftMarginLoss"}, logits, by_row(mean_entropy(1, 1, 1))),
    Case(
        {"type": "torch.MultiLabelSoftMarginLoss", "weight": WEIGHTS},
        logits,
        by_row(mean_entropy(*WEIGHTS)),
    ),
    Case(
        {"type": "torch.SoftMarginLoss"}, signs, each(lambda x, y: math.log(1 + math.exp(-y * x)))
    ),
]
