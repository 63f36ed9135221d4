"""Focal losses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, sigmoid
from tests.losses.cases.classes import classes, hot, soft


def probabilities(rows: int) -> Inputs:
    """Probabilities of 3 classes, class indices with background."""
    inputs = classes(0, 3)(rows)
    return inputs | {"pred": inputs["pred"].sigmoid()}


def focal(gamma: float, alpha: float, activate: Callable[[float], float] = sigmoid):
    """Eq. 5 of arXiv:1708.02002; a soft target t weighs the two of its halves."""

    def element(x: float, t: float) -> float:
        p = activate(x)
        entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
        return (alpha * t + (1 - alpha) * (1 - t)) * (t * (1 - p) + (1 - t) * p) ** gamma * entropy

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows = zip(pred.tolist(), hot(target), strict=True)
        values = [[element(x, t) for x, t in zip(*row, strict=True)] for row in rows]
        return torch.tensor(values, dtype=pred.dtype)

    return reference


CASES = [
    Case({"type": "FocalLoss"}, classes(0, 3), focal(2, 0.25), weights="vector"),
    Case({"type": "FocalLoss", "gamma": 0.7, "alpha": 0.9}, soft, focal(0.7, 0.9)),
    Case(
        {"type": "FocalLoss", "activated": True},
        probabilities,
        focal(2, 0.25, lambda p: p),
        weights="vector",
    ),
    Case(
        {"type": "FocalCustomLoss", "num_classes": 3, "activated": True, "gamma": 1.5},
        classes(0, 3),
        focal(1.5, 0.25),
        weights="vector",
    ),
]
