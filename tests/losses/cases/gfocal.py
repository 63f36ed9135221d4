"""Generalized focal losses: quality and distribution."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, by_row, normal, sigmoid, uniform, whole

BINS = 5


def rated(rows: int) -> Inputs:
    """Scores [N, 3], and for each row a class, with background, and a quality."""
    label = whole(rows, low=-1, high=3, seed=1)
    return {"pred": 2 * normal(rows, 3), "target": [label, uniform(rows, seed=2)]}


def rated_probabilities(rows: int) -> Inputs:
    """The same with probabilities for scores."""
    inputs = rated(rows)
    return inputs | {"pred": inputs["pred"].sigmoid()}


def rated_maps(rows: int) -> Inputs:
    """Scores [N, 3, 2], and a quality for each."""
    return {"pred": 2 * normal(rows, 3, 2), "target": uniform(rows, 3, 2, seed=1)}


def distances(rows: int) -> Inputs:
    """Scores of the bins 0..4, and a distance, not a whole one, of 0 to 4."""
    return {
        "pred": 2 * normal(rows, BINS),
        "target": whole(rows, high=BINS - 2, seed=1) + 0.1 + 0.8 * uniform(rows, seed=2),
    }


def quality_focal(beta: float, activate: Callable[[float], float] = sigmoid):
    """Eq. 5 of arXiv:2006.04388, summed over the classes of a row."""

    def element(x: float, y: float) -> float:
        p = activate(x)
        return abs(y - p) ** beta * (-y * math.log(p) - (1 - y) * math.log(1 - p))

    def of_list(pred: Tensor, target: list[Tensor]) -> Tensor:
        rows = zip(pred.tolist(), *(part.tolist() for part in target), strict=True)
        values = [
            sum(element(x, quality if c == label else 0.0) for c, x in enumerate(row))
            for row, label, quality in rows
        ]
        return torch.tensor(values, dtype=pred.dtype)

    def of_tensor(pred: Tensor, target: Tensor) -> Tensor:
        pairs = zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        values = torch.tensor([element(x, y) for x, y in pairs], dtype=pred.dtype)
        return values.view(pred.shape).sum(1)

    def reference(pred: Tensor, target: list[Tensor] | Tensor) -> Tensor:
        return (of_list if isinstance(target, list) else of_tensor)(pred, target)

    return reference


def distribution_focal(pred: list[float], target: float) -> float:
    """Eq. 6 of arXiv:2006.04388."""
    total, left = sum(math.exp(x) for x in pred), math.floor(target)
    entropies = [-math.log(math.exp(pred[i]) / total) for i in (left, left + 1)]
    return (left + 1 - target) * entropies[0] + (target - left) * entropies[1]


CASES = [
    Case(
        {"type": "QualityFocalLoss"}, rated, quality_focal(2), ("pred", "target"), weights="vector"
    ),
    Case({"type": "QualityFocalLoss", "beta": 1.3}, rated_maps, quality_focal(1.3)),
    Case(
        {"type": "QualityFocalLoss", "activated": True},
        rated_probabilities,
        quality_focal(2, lambda p: p),
        ("pred", "target"),
    ),
    Case(
        {"type": "DistributionFocalLoss"}, distances, by_row(distribution_focal), ("pred", "target")
    ),
]
