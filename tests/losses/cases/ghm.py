"""Gradient harmonised losses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, uniform
from tests.losses.cases.classes import classes, hot, soft

OVER_THE_COUNT = "the mean is over the elements that count"


def labelled(rows: int) -> Inputs:
    """Scores of 3 classes, class indices of which some are none, and which rows count."""
    return classes(-1, 3)(rows) | {"weight": (uniform(rows, seed=2) > 0.2).double()}


def truths(rows: int) -> Inputs:
    """Scores of 3 classes, how true each is, and which count."""
    return soft(rows) | {"weight": uniform(rows, 3, seed=2) - 0.2}


def offsets(rows: int) -> Inputs:
    """Two sets of four numbers, and which count."""
    pred, target = 0.1 * normal(rows, 4), 0.1 * normal(rows, 4, seed=1)
    return {"pred": pred, "target": target, "weight": uniform(rows, 4, seed=2) - 0.2}


def harmonised(values: list[float], lengths: list[float], bins: int, total: float) -> list[float]:
    """Each value by N / (R M), of lengths that are None where an element does not count."""
    places = [None if g is None else math.floor(g * bins) for g in lengths]
    filled = len({place for place in places if place is not None})
    return [
        0.0 if place is None else value * max(total, 1) / (places.count(place) * filled)
        for value, place in zip(values, places, strict=True)
    ]


def ghmc(bins: int) -> Callable[..., Tensor]:
    """GHM-C of arXiv:1811.05181, in one histogram."""

    def reference(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        weights = (weight if weight.dim() == 2 else weight[:, None].expand_as(pred)).flatten()
        p = [sigmoid(x) for x in pred.flatten().tolist()]
        t = [one for row in hot(target) for one in row]
        entropy = [-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in zip(p, t, strict=True)]
        counts = [w > 0 for w in weights.tolist()]
        lengths = [abs(a - b) if c else None for a, b, c in zip(p, t, counts, strict=True)]
        values = harmonised(entropy, lengths, bins, sum(counts))
        return torch.tensor(values, dtype=pred.dtype).reshape(pred.shape)

    return reference


def ghmr(bins: int, mu: float) -> Callable[..., Tensor]:
    """GHM-R of arXiv:1811.05181, in one histogram."""

    def reference(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        differences, weights = (pred - target).flatten().tolist(), weight.flatten().tolist()
        roots = [math.hypot(d, mu) for d in differences]
        lengths = [
            abs(d) / root if w > 0 else None
            for d, root, w in zip(differences, roots, weights, strict=True)
        ]
        values = harmonised([root - mu for root in roots], lengths, bins, sum(weights))
        return torch.tensor(values, dtype=pred.dtype).reshape(pred.shape)

    return reference


CASES = [
    Case({"type": "GHMC"}, labelled, ghmc(10), reduces_otherwise=OVER_THE_COUNT),
    Case({"type": "GHMC", "bins": 4}, truths, ghmc(4), reduces_otherwise=OVER_THE_COUNT),
    Case({"type": "GHMC", "momentum": 0.75}, labelled, reduces_otherwise=OVER_THE_COUNT),
    Case({"type": "GHMR"}, offsets, ghmr(10, 0.02), reduces_otherwise=OVER_THE_COUNT),
    Case(
        {"type": "GHMR", "bins": 5, "mu": 0.1},
        offsets,
        ghmr(5, 0.1),
        reduces_otherwise=OVER_THE_COUNT,
    ),
    Case({"type": "GHMR", "momentum": 0.5}, offsets, reduces_otherwise=OVER_THE_COUNT),
]
