"""Scores of three classes, and what they should be: inputs that the class losses share."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Inputs, normal, whole


def classes(low: int, high: int) -> Callable[[int], Inputs]:
    """Scores [N, 3], class indices in low..high."""
    return lambda rows: {
        "pred": 2 * normal(rows, 3),
        "target": whole(rows, low=low, high=high, seed=1),
    }


def soft(rows: int) -> Inputs:
    """Scores [N, 3], and a distribution over the classes."""
    return {"pred": 2 * normal(rows, 3), "target": torch.softmax(2 * normal(rows, 3, seed=1), 1)}


def hot(target: Tensor) -> list[list[float]]:
    """The target of each class: of class indices (one-hot), or as given."""
    if target.dim() == 2:
        return target.tolist()
    return [[float(label == c) for c in range(3)] for label in target.tolist()]
