"""torch's losses that compare two or three things."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, by_row, normal, whole

Distance = Callable[[list[float], list[float]], float]


def ranked(rows: int) -> Inputs:
    """Two sets of scores, and which are to be larger."""
    return {
        "pred": normal(rows, 3),
        "target": normal(rows, 3, seed=1),
        "y": 2 * whole(rows, 3, high=1) - 1,
    }


def vectors(rows: int) -> Inputs:
    """Two sets of vectors, and which are to be alike."""
    return ranked(rows) | {"y": 2 * whole(rows, high=1, seed=2) - 1}


def triplets(rows: int) -> Inputs:
    """Anchors, positives, negatives."""
    return {
        "pred": normal(rows, 3),
        "target": normal(rows, 3, seed=1),
        "negative": normal(rows, 3, seed=2),
    }


def ranking(pred: list[float], target: list[float], y: list[int]) -> list[float]:
    """With a margin of 0.4."""
    return [max(0.0, 0.4 - s * (a - b)) for a, b, s in zip(pred, target, y, strict=True)]


def cosine(left: list[float], right: list[float]) -> float:
    """Of the angle between two vectors."""
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / math.hypot(*left) / math.hypot(*right)


def turned(pred: list[float], target: list[float], y: int) -> float:
    """With a margin of -0.2."""
    found = cosine(pred, target)
    return 1 - found if y == 1 else max(0.0, found + 0.2)


def norm(p: float, eps: float = 1e-6) -> Distance:
    """Of the difference, eps added to each element."""

    def distance(left: list[float], right: list[float]) -> float:
        each = [abs(a - b + eps) for a, b in zip(left, right, strict=True)]
        return max(each) if math.isinf(p) else sum(d**p for d in each) ** (1 / p)

    return distance


def triplet(distance: Distance, margin: float, *, swap: bool = False) -> Callable[..., float]:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""

    def row(pred: list[float], target: list[float], negative: list[float]) -> float:
        far = distance(pred, negative)
        far = min(far, distance(target, negative)) if swap else far
        return max(0.0, distance(pred, target) - far + margin)

    return row


def of_distance(name: str, distance: Distance, *, swap: bool = False) -> Case:
    """A triplet loss of this distance."""
    return Case(
        {
            "type": "torch.TripletMarginWithDistanceLoss",
            "distance_function": name,
            "margin": 1.5,
            "swap": swap,
        },
        triplets,
        by_row(triplet(distance, 1.5, swap=swap)),
        wrt=("pred", "target", "negative"),
    )


CASES = [
    Case(
        {"type": "torch.MarginRankingLoss", "margin": 0.4},
        ranked,
        by_row(ranking),
        wrt=("pred", "target"),
    ),
    Case(
        {"type": "torch.CosineEmbeddingLoss", "margin": -0.2},
        vectors,
        by_row(turned),
        wrt=("pred", "target"),
    ),
    Case(
        {"type": "torch.TripletMarginLoss"},
        triplets,
        by_row(triplet(norm(2), 1)),
        wrt=("pred", "target", "negative"),
    ),
    Case(
        {"type": "torch.TripletMarginLoss", "margin": 2.5, "p": 3, "eps": 0.01, "swap": True},
        triplets,
        by_row(triplet(norm(3, 0.01), 2.5, swap=True)),
        wrt=("pred", "target", "negative"),
    ),
    of_distance("euclidean", norm(2)),
    of_distance("manhattan", norm(1), swap=True),
    of_distance("chebyshev", norm(math.inf)),
    of_distance("cosine", lambda a, b: 1 - cosine(a, b)),
    of_distance(
        "squared_euclidean",
        lambda a, b: sum((x - y) ** 2 for x, y in zip(a, b, strict=True)),
        swap=True,
    ),
]
