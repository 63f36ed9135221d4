"""Set losses: up to three objects an image, and their matching by looking at all there are."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch

from tests.losses.case import Case, Inputs, normal, uniform, whole
from tests.losses.cases.overlap import softmax

Box = list[float]


def boxes(rows: int, *shape: int, seed: int) -> torch.Tensor:
    """Centers in the middle, and sizes of a tenth to a half."""
    return 0.1 + uniform(rows, *shape, 4, seed=seed) * torch.tensor([0.8, 0.8, 0.4, 0.4])


def scene(queries: int) -> Callable[[int], Inputs]:
    """Images with 2, 0, 3, 1, 2 ... objects of 3 classes."""

    def make(rows: int) -> Inputs:
        counts = [(2 + 2 * i) % 4 + i // 2 % 2 for i in range(rows)]
        return {
            "pred": {
                "logits": 2 * normal(rows, queries, 4),
                "boxes": boxes(rows, queries, seed=1),
            },
            "target": {
                "labels": [whole(n, high=2, seed=10 + i) for i, n in enumerate(counts)],
                "boxes": [boxes(n, seed=20 + i) for i, n in enumerate(counts)],
            },
        }

    return make


def area(box: Box) -> float:
    """Of x1, y1, x2, y2; 0 where there is none."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def giou(a: Box, b: Box) -> float:
    """Generalised intersection over union, arXiv:1902.09630."""
    (a, b) = ([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (a, b))
    both = area([*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:])])
    around = area([*map(min, a[:2], b[:2]), *map(max, a[2:], b[2:])])
    union = area(a) + area(b) - both
    return both / union - (around - union) / around


def l1(a: Box, b: Box) -> float:
    """The sum of four distances."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def best(cost: list[list[float]], queries: int) -> dict[int, int]:
    """The query of each object, at the least cost of all ways to match as many as can be."""
    objects = len(cost)
    if objects <= queries:
        ways = (dict(enumerate(way)) for way in permutations(range(queries), objects))
    else:
        ways = ({t: q for q, t in enumerate(way)} for way in permutations(range(objects), queries))
    return min(ways, key=lambda way: sum(cost[t][q] for t, q in way.items()))


def set_loss(costs: Box, weights: Box, eos_coef: float, divisor: float | None = None):
    """Eq. 1 and 2 of arXiv:2005.12872, an image at a time."""

    def reference(pred: dict[str, Any], target: dict[str, Any]) -> dict[str, float]:
        entropy = total = distance = apart = 0.0
        for logits, found, labels, wanted in zip(
            *(pred[name].tolist() for name in ("logits", "boxes")),
            *([one.tolist() for one in target[name]] for name in ("labels", "boxes")),
            strict=True,
        ):
            p = [softmax(scores) for scores in logits]
            cost = [
                [
                    -costs[0] * p[q][y] + costs[1] * l1(found[q], b) - costs[2] * giou(found[q], b)
                    for q in range(len(found))
                ]
                for y, b in zip(labels, wanted, strict=True)
            ]
            way = best(cost, len(found))
            classes = {q: labels[t] for t, q in way.items()}
            for q, scores in enumerate(p):
                weight = 1 if q in classes else eos_coef
                entropy -= weight * math.log(scores[classes.get(q, 3)])
                total += weight
            distance += sum(l1(found[q], wanted[t]) for t, q in way.items())
            apart += sum(1 - giou(found[q], wanted[t]) for t, q in way.items())
        n = max(sum(map(len, target["labels"])) if divisor is None else divisor, 1)
        return {
            "loss_cls": weights[0] * entropy / total,
            "loss_bbox": weights[1] * distance / n,
            "loss_giou": weights[2] * apart / n,
        }

    return reference


CASES = [
    Case({"type": "HungarianLoss"}, scene(5), set_loss([1, 5, 2], [1, 5, 2], 0.1)),
    Case(
        {
            "type": "HungarianLoss",
            "cost_cls": 3,
            "cost_bbox": 0.5,
            "weight_cls": 2,
            "weight_bbox": 0.7,
            "weight_giou": 0.3,
            "eos_coef": 0.4,
        },
        scene(2),
        set_loss([3, 0.5, 2], [2, 0.7, 0.3], 0.4, 3.5),
        options={"avg_factor": 3.5},
    ),
]
