"""Margin softmax losses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, uniform, whole
from tests.losses.cases.contrastive import cosine, entropy


def cosines(rows: int) -> Inputs:
    """Cosines [N, 4], class indices."""
    return {"pred": 1.8 * uniform(rows, 4) - 0.9, "target": whole(rows, high=3, seed=1)}


def embeddings(rows: int) -> Inputs:
    """Vectors [N, 3], class indices, and the centres of four classes."""
    return cosines(rows) | {"pred": normal(rows, 3), "centers": normal(4, 3, seed=2)}


def margin_softmax(s: float, lessened: Callable[[float], float]) -> Callable[..., Tensor]:
    """Softmax entropy of s · cosines, the own one lessened."""

    def reference(pred: Tensor, target: Tensor, centers: Tensor | None = None) -> Tensor:
        found = pred.tolist()
        if centers is not None:
            found = [[cosine(x, center) for center in centers.tolist()] for x in found]
        rows = [
            entropy(s * lessened(row[y]), [s * c for j, c in enumerate(row) if j != y])
            for row, y in zip(found, target.tolist(), strict=True)
        ]
        return torch.tensor(rows, dtype=pred.dtype)

    return reference


def turned(m: float) -> Callable[[float], float]:
    """The cosine of the angle and m, and past π the line that goes on falling."""

    def formula(cosine: float) -> float:
        angle = math.acos(cosine) + m
        return math.cos(angle) if angle <= math.pi else cosine - m * math.sin(m)

    return formula


ARC = margin_softmax(64, turned(0.5))
COS = margin_softmax(64, lambda cosine: cosine - 0.35)
CENTERS = ("pred", "centers")

CASES = [
    Case({"type": "ArcFaceLoss"}, cosines, ARC),
    Case({"type": "ArcFaceLoss"}, embeddings, ARC, CENTERS),
    Case({"type": "ArcFaceLoss", "s": 4, "m": 2.5}, cosines, margin_softmax(4, turned(2.5))),
    Case({"type": "CosFaceLoss"}, cosines, COS),
    Case({"type": "CosFaceLoss"}, embeddings, COS, CENTERS),
]
