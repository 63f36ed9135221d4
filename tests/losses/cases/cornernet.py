"""CornerNet's parts: two classes, maps of 4 x 4, three places for objects."""

import math

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, uniform, whole


def heat(rows: int, seed: int = 0) -> Tensor:
    """A heat map with some corners, at which it is 1."""
    blurred = 0.9 * uniform(rows, 2, 4, 4, seed=seed)
    return torch.where(blurred > 0.75, 1.0, blurred)


def mask(rows: int) -> Tensor:
    """Which of three places are objects; the first always."""
    chosen = whole(rows, 3, high=1, seed=9)
    return torch.cat([torch.ones_like(chosen[:, :1]), chosen[:, 1:]], 1).to(torch.uint8)


def maps(rows: int) -> Inputs:
    """Probabilities of two stacks, and the heat map."""
    pred = [0.1 + 0.8 * uniform(rows, 2, 4, 4, seed=seed) for seed in (1, 2)]
    return {"pred": pred, "target": heat(rows)}


def tags(rows: int) -> Inputs:
    """Tags of two corners."""
    return {
        "pred": normal(rows, 3, 1, seed=1),
        "target": normal(rows, 3, 1, seed=2),
        "mask": mask(rows),
    }


def offsets(rows: int) -> Inputs:
    """Offsets of one corner."""
    return {
        "pred": 2 * normal(rows, 3, 2, seed=1),
        "target": normal(rows, 3, 2, seed=2),
        "mask": mask(rows),
    }


def stacks(rows: int) -> Inputs:
    """Two stacks of all six outputs."""
    shapes = [(2, 4, 4), (2, 4, 4), (3, 1), (3, 1), (3, 2), (3, 2)]
    return {
        "pred": [normal(rows, *shape, seed=i) for i, shape in enumerate(2 * shapes)],
        "target": [
            heat(rows, seed=1),
            heat(rows, seed=2),
            mask(rows),
            normal(rows, 3, 2, seed=21),
            normal(rows, 3, 2, seed=22),
        ],
    }


def neg_loss(pred: list[Tensor], target: Tensor) -> float:
    """Eq. 1 of arXiv:1808.01244, a cell at a time."""
    total = 0.0
    positives = sum(y == 1 for y in target.flatten().tolist()) or 1
    for heat_map in pred:
        for p, y in zip(heat_map.flatten().tolist(), target.flatten().tolist(), strict=True):
            if y == 1:
                total -= (1 - p) ** 2 * math.log(p) / positives
            else:
                total -= (1 - y) ** 4 * p**2 * math.log(1 - p) / positives
    return total


def grouping(pred: Tensor, target: Tensor, mask: Tensor) -> dict[str, float]:
    """Eq. 4 and 5, a pair at a time, with the original code's 1e-4."""
    pull = push = 0.0
    for a, b, chosen in zip(pred.tolist(), target.tolist(), mask.tolist(), strict=True):
        found = [(x[0], y[0]) for x, y, c in zip(a, b, chosen, strict=True) if c]
        n = len(found)
        means = [(x + y) / 2 for x, y in found]
        pull += sum(
            ((x - m) ** 2 + (y - m) ** 2) / (n + 1e-4)
            for (x, y), m in zip(found, means, strict=True)
        )
        push += sum(
            (max(0.0, 1 - abs(m - k)) - 1 / (n + 1e-4)) / (n * (n - 1) + 1e-4)
            for m in means
            for k in means
        )
    return {"pull": pull, "push": push}


CASES = [
    Case({"type": "CornerNet.neg_loss"}, maps, neg_loss),
    Case({"type": "CornerNet.ae_loss"}, tags, grouping, wrt=("pred", "target")),
    Case({"type": "CornerNet.regr_loss"}, offsets, wrt=("pred", "target")),
    Case({"type": "CornerNet.AELoss", "pull_weight": 0.1, "push_weight": 0.1}, stacks),
]
