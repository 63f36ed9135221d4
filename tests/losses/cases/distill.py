"""Knowledge distillation."""

import math
from collections.abc import Callable

from tests.losses.case import Case, Inputs, by_row, normal


def teacher(rows: int) -> Inputs:
    """Scores [N, 4] of a student and a teacher."""
    return {"pred": 2 * normal(rows, 4), "target": 2 * normal(rows, 4, seed=1)}


def softened(scores: list[float], temperature: float) -> list[float]:
    """Softmax at a temperature."""
    powers = [math.exp(x / temperature) for x in scores]
    return [power / sum(powers) for power in powers]


def divergence(temperature: float) -> Callable[..., float]:
    """T² KL(q | p) / C: section 2 of arXiv:1503.02531, and upstream's mean over classes."""

    def row(pred: list[float], target: list[float]) -> float:
        p, q = softened(pred, temperature), softened(target, temperature)
        total = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        return temperature**2 * total / len(p)

    return row


CASES = [
    Case({"type": "KnowledgeDistillationKLDivLoss"}, teacher, by_row(divergence(10))),
    Case({"type": "KnowledgeDistillationKLDivLoss", "T": 1.5}, teacher, by_row(divergence(1.5))),
]
