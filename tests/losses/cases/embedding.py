"""Losses of embeddings: positives apart from negatives, objects apart from each other."""

import math
from itertools import permutations

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, by_row, normal, whole

Match = list[list[list[list[int]]]]


def similarities(rows: int) -> Inputs:
    """Scores [N, 5], and which are of the same object."""
    return {"pred": normal(rows, 5), "target": whole(rows, 5, high=1, seed=1)}


def multi_positive(pred: list[float], target: list[int]) -> float:
    """Eq. 7 of arXiv:2006.06664, pair by pair."""
    of = {sign: [x for x, t in zip(pred, target, strict=True) if t == sign] for sign in (0, 1)}
    return math.log(1 + sum(math.exp(n - p) for n in of[0] for p in of[1]))


def identities(rows: int) -> Inputs:
    """Embeddings [N, 3] of two classes in turn."""
    return {"pred": normal(rows, 3), "target": torch.arange(rows) % 2}


def triplets(margin: float, weight: float):
    """Eq. 5 of arXiv:1703.07737, as a mean; an anchor alone in its class is 1e-6 from itself."""

    def reference(pred: Tensor, target: Tensor) -> float:
        x, labels = pred.tolist(), target.tolist()
        hinges = []
        for i, anchor in enumerate(x):
            pairs = [(max(math.dist(anchor, other), 1e-6), j) for j, other in enumerate(x)]
            far = max(d for d, j in pairs if labels[j] == labels[i])
            near = min(d for d, j in pairs if labels[j] != labels[i])
            hinges.append(max(0.0, margin + far - near))
        return weight * sum(hinges) / len(hinges)

    return reference


def corners(rows: int) -> Inputs:
    """Maps of embeddings [N, 2, 3, 4]; 0, 1, 2, 0, ... objects an image."""
    places = [[[0, 1], [2, 3]], [[1, 0], [1, 2]], [[2, 0], [2, 1]]]
    return {
        "pred": normal(rows, 2, 3, 4),
        "target": normal(rows, 2, 3, 4, seed=1),
        "match": [places[: i % 3] for i in range(rows)],
    }


def associative(pull_weight: float, push_weight: float):
    """Eq. 4 and 5 of arXiv:1808.01244, image by image; a channel is an embedding of its own."""

    def reference(pred: Tensor, target: Tensor, match: Match) -> dict[str, float]:
        pull = push = 0.0
        for a, b, objects in zip(pred.tolist(), target.tolist(), match, strict=True):
            tags = [
                (one[top][left], other[bottom][right])
                for (top, left), (bottom, right) in objects
                for one, other in zip(a, b, strict=True)
            ]
            if tags:
                means = [(x + y) / 2 for x, y in tags]
                spread = [
                    (x - m) ** 2 + (y - m) ** 2 for (x, y), m in zip(tags, means, strict=True)
                ]
                pull += pull_weight * sum(spread) / len(tags)
                pairs = [max(0.0, 1 - abs(m - n)) for m, n in permutations(means, 2)]
                push += push_weight * sum(pairs) / len(pairs)
        return {"pull": pull, "push": push}

    return reference


CASES = [
    Case({"type": "MultiPosCrossEntropyLoss"}, similarities, by_row(multi_positive)),
    Case({"type": "TripletLoss"}, identities, triplets(0.3, 1)),
    Case(
        {"type": "TripletLoss", "margin": 2.0, "loss_weight": 0.4}, identities, triplets(2.0, 0.4)
    ),
    Case(
        {"type": "AssociativeEmbeddingLoss"}, corners, associative(0.25, 0.25), ("pred", "target")
    ),
]
