"""torch's losses of scores and a margin."""

from collections.abc import Callable

import torch

from tests.losses.case import Case, Inputs, by_row, each, normal, whole

WEIGHTS = [0.5, 2.0, 3.0, 1.0]


def distances(rows: int) -> Inputs:
    """Distances, and whether they are of likes."""
    return {"pred": normal(rows, 3).abs(), "target": 2 * whole(rows, 3, high=1) - 1}


def scores(rows: int) -> Inputs:
    """Scores of 4 classes, class indices."""
    return {"pred": normal(rows, 4), "target": whole(rows, high=3)}


def label_sets(rows: int) -> Inputs:
    """Scores of 4 classes; two labels, the end, and a label that is not read."""
    two = normal(rows, 4, seed=1).argsort(1)[:, :2]
    end, unread = torch.full((rows, 1), -1), whole(rows, 1, high=3)
    return {"pred": normal(rows, 4), "target": torch.cat([two, end, unread], 1)}


def hinge(
    power: int, margin: float, weights: list[float] | None = None
) -> Callable[[list[float], int], float]:
    """Of one label against every other class."""

    def row(pred: list[float], target: int) -> float:
        others = [x for c, x in enumerate(pred) if c != target]
        miss = sum(max(0.0, margin - pred[target] + x) ** power for x in others)
        return miss * (weights[target] if weights else 1) / len(pred)

    return row


def set_hinge(pred: list[float], target: list[int]) -> float:
    """Of each label before the -1 against every class that is none of them."""
    labels = target[: target.index(-1)]
    others = [x for c, x in enumerate(pred) if c not in labels]
    return sum(max(0.0, 1 - pred[y] + x) for y in labels for x in others) / len(pred)


CASES = [
    Case(
        {"type": "torch.HingeEmbeddingLoss", "margin": 1.5},
        distances,
        each(lambda x, y: x if y == 1 else max(0.0, 1.5 - x)),
    ),
    Case({"type": "torch.MultiMarginLoss"}, scores, by_row(hinge(1, 1))),
    Case(
        {"type": "torch.MultiMarginLoss", "p": 2, "margin": 0.7, "weight": WEIGHTS},
        scores,
        by_row(hinge(2, 0.7, WEIGHTS)),
    ),
    Case({"type": "torch.MultiLabelMarginLoss"}, label_sets, by_row(set_hinge)),
]
