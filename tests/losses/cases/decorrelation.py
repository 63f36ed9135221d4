"""Losses of two views without negatives."""

import math

from torch import Tensor

from tests.losses.case import Case
from tests.losses.cases.contrastive import views


def columns(z: Tensor) -> list[list[float]]:
    """The columns, each less its mean."""
    out = []
    for column in z.T.tolist():
        mean = sum(column) / len(column)
        out.append([x - mean for x in column])
    return out


def product(a: list[float], b: list[float]) -> float:
    """Of two columns."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def barlow_twins(pred: Tensor, target: Tensor) -> float:
    """Eq. 1 of arXiv:2103.03230, with the epsilon of batch norm."""

    def like_batch_norm(column: list[float]) -> list[float]:
        return [x / math.sqrt(product(column, column) / len(column) + 1e-5) for x in column]

    x, y = ([like_batch_norm(c) for c in columns(z)] for z in (pred, target))
    total = 0.0
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            c = product(a, b) / len(a)
            total += (1 - c) ** 2 if i == j else 0.0051 * c * c
    return total


def vicreg(pred: Tensor, target: Tensor) -> dict[str, float]:
    """Eq. 1 to 6 of arXiv:2105.04906, with the averages of the authors' code."""

    def covariance(a: list[float], b: list[float]) -> float:
        return product(a, b) / (len(a) - 1)

    difference = (pred - target).flatten().tolist()
    variance = covariances = 0.0
    for z in (columns(pred), columns(target)):
        for i, a in enumerate(z):
            variance += max(0, 1 - math.sqrt(covariance(a, a) + 1e-4)) / len(z) / 2
            covariances += sum(covariance(a, b) ** 2 for b in z[:i] + z[i + 1 :]) / len(z)
    return {
        "invariance": 25 * product(difference, difference) / len(difference),
        "variance": 25 * variance,
        "covariance": covariances,
    }


CASES = [
    Case({"type": "BarlowTwinsLoss"}, views, barlow_twins, ("pred", "target")),
    Case({"type": "VICRegLoss"}, views, vicreg, ("pred", "target")),
]
