"""Divergences of two distributions over tokens."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal

BOTH = ("pred", "target")


def logits(rows: int) -> Inputs:
    """A student's and a teacher's logits [N, 4]."""
    return {"pred": 2 * normal(rows, 4), "target": 2 * normal(rows, 4, seed=1)}


def sequences(rows: int) -> Inputs:
    """The same of sequences, [B, 3, 4]."""
    return {"pred": 2 * normal(rows, 3, 4), "target": 2 * normal(rows, 3, 4, seed=1)}


def padded(rows: int) -> Inputs:
    """The same, of which not all tokens count."""
    mask = [[1, 1, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1]]
    return sequences(rows) | {"mask": torch.tensor(mask[:rows]).reshape(rows, 3)}


def softmax(logits: list[float], temperature: float = 1) -> list[float]:
    """Probabilities of logits."""
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


def kl(p: list[float], q: list[float]) -> float:
    """Σ p log p / q."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def by_token(divergence: Callable[..., float], temperature: float = 1, factor: float = 1):
    """A divergence of teacher and student, token by token."""

    def reference(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        pairs = zip(pred.flatten(0, -2).tolist(), target.flatten(0, -2).tolist(), strict=True)
        values = [
            factor * divergence(softmax(teacher, temperature), softmax(student, temperature))
            for student, teacher in pairs
        ]
        found = torch.tensor(values, dtype=pred.dtype).reshape(pred.shape[:-1])
        return found if mask is None else found * mask

    return reference


def jsd(beta: float) -> Callable[[list[float], list[float]], float]:
    """Eq. 1 of arXiv:2306.13649."""

    def formula(p: list[float], q: list[float]) -> float:
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        return beta * kl(p, m) + (1 - beta) * kl(q, m)

    return formula


def reverse(p: list[float], q: list[float]) -> float:
    """KL(q ‖ p)."""
    return kl(q, p)


MASKED = "the mean is over the tokens that count"

CASES = [
    Case({"type": "ForwardKLLoss"}, logits, by_token(kl), BOTH),
    Case({"type": "ForwardKLLoss", "temperature": 2}, sequences, by_token(kl, 2, 4), BOTH),
    Case(
        {"type": "ForwardKLLoss", "temperature": 3, "temperature_squared": False},
        logits,
        by_token(kl, 3),
    ),
    Case({"type": "ReverseKLLoss", "temperature": 2}, logits, by_token(reverse, 2, 4), BOTH),
    Case({"type": "ReverseKLLoss"}, sequences, by_token(reverse), BOTH),
    *(
        Case({"type": name}, padded, by_token(form), BOTH, reduces_otherwise=MASKED)
        for name, form in (("ForwardKLLoss", kl), ("ReverseKLLoss", reverse), ("JSDLoss", jsd(0.5)))
    ),
    Case({"type": "JSDLoss"}, sequences, by_token(jsd(0.5)), BOTH),
    Case(
        {"type": "JSDLoss", "beta": 0.1, "temperature": 2}, logits, by_token(jsd(0.1), 2, 4), BOTH
    ),
]
