"""Dice loss."""

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, uniform


def masks(rows: int) -> Inputs:
    """Scores [N, 1, 2, 3] of masks, and masks [N, 2, 3] of 0 and 1."""
    return {"pred": normal(rows, 1, 2, 3), "target": (uniform(rows, 2, 3, seed=1) < 0.5).double()}


def shares(rows: int) -> Inputs:
    """Probabilities [N, 4], and soft masks."""
    return {"pred": uniform(rows, 4), "target": uniform(rows, 4, seed=1)}


def dice(eps: float, *, squared: bool, activate: bool):
    """V-Net's form (arXiv:1606.04797) if squared, else the one without squares."""

    def row(scores: list[float], t: list[float]) -> float:
        p = [sigmoid(x) if activate else x for x in scores]
        both = 2 * sum(a * b for a, b in zip(p, t, strict=True))
        if squared:
            return 1 - both / (sum(a * a for a in p) + eps + sum(b * b for b in t) + eps)
        return 1 - (both + eps) / (sum(p) + sum(t) + eps)

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows = zip(pred.flatten(1).tolist(), target.flatten(1).tolist(), strict=True)
        return torch.tensor([row(*one) for one in rows], dtype=pred.dtype)

    return reference


CASES = [
    Case({"type": "DiceLoss"}, masks, dice(1e-3, squared=True, activate=True), ("pred", "target")),
    Case(
        {"type": "DiceLoss", "naive_dice": True, "eps": 1.0},
        masks,
        dice(1.0, squared=False, activate=True),
        ("pred", "target"),
    ),
    Case(
        {"type": "DiceLoss", "activate": False, "use_sigmoid": False},
        shares,
        dice(1e-3, squared=True, activate=False),
    ),
]
