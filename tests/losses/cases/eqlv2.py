"""Equalization loss v2."""

import math

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, whole

#: After which f, at γ = 12 and μ = 0.8, is near 0, a half and near 1.
STATE = {
    "pos_grad": torch.tensor([1.0, 8.0, 30.0]),
    "neg_grad": torch.tensor([10.0, 10.0, 10.0]),
    "pos_neg": torch.tensor([0.1, 0.8, 3.0]),
}


def detected(rows: int) -> Inputs:
    """Scores of 3 classes and background; class indices of which 3 is background."""
    return {"pred": 2 * normal(rows, 4), "target": whole(rows, high=3, seed=1)}


def first_call(pred: Tensor, target: Tensor) -> float:
    """Before anything is known of the classes all count the same."""
    total = 0.0
    for row, label in zip(pred.tolist(), target.tolist(), strict=True):
        ps = [sigmoid(x) for x in row]
        total -= sum(math.log(p if c == label else 1 - p) for c, p in enumerate(ps))
    return total / len(pred)


CASES = [
    Case(
        {"type": "EQLV2Loss", "num_classes": 3},
        detected,
        first_call,
        reduces_otherwise="always a mean over the rows",
    ),
    Case(
        {"type": "EQLV2Loss", "num_classes": 3, "alpha": 2.0},
        detected,
        options={"state": STATE},
    ),
]
