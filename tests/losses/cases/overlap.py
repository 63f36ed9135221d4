"""Regions, by their overlap: maps of 3 classes, and one region a row."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, uniform, whole

VOID = 255


def maps(rows: int) -> Inputs:
    """Scores [N, 3, 2, 3], class indices [N, 2, 3]."""
    return {"pred": 2 * normal(rows, 3, 2, 3), "target": whole(rows, 2, 3, high=2, seed=1)}


def partly_void(rows: int) -> Inputs:
    """The same, of two classes at most, and without labels in places."""
    labels = whole(rows, 2, 3, high=3, seed=2)
    return maps(rows) | {"target": torch.where(labels == 2, VOID, labels.clamp(max=1))}


def region(rows: int) -> Inputs:
    """Scores [N, 1, 4], a mask [N, 4]."""
    return {"pred": 2 * normal(rows, 1, 4), "target": whole(rows, 4, high=1, seed=1).bool()}


def soft(rows: int) -> Inputs:
    """Probabilities and soft masks [N, 3, 4]."""
    return {
        "pred": 0.05 + 0.9 * uniform(rows, 3, 4),
        "target": 0.05 + 0.9 * uniform(rows, 3, 4, seed=1),
    }


def softmax(scores: list[float]) -> list[float]:
    """Of some numbers."""
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def pixels(pred: Tensor, target: Tensor, mode: str, *, activated: bool = False) -> list[Any]:
    """Images, of regions, of pairs (p, g) a pixel; without the void ones."""
    images = []
    target = target.reshape(len(target), -1) if mode != "multilabel" else target.flatten(2)
    for scores, labels in zip(pred.flatten(2).tolist(), target.tolist(), strict=True):
        if activated:
            images.append(
                [list(zip(*pair, strict=True)) for pair in zip(scores, labels, strict=True)]
            )
        elif mode == "binary":
            images.append(
                [[(sigmoid(x), float(g)) for x, g in zip(scores[0], labels, strict=True)]]
            )
        elif mode == "multilabel":
            images.append(
                [
                    [(sigmoid(x), float(g)) for x, g in zip(*pair, strict=True)]
                    for pair in zip(scores, labels, strict=True)
                ]
            )
        else:
            p = [softmax(list(pixel)) for pixel in zip(*scores, strict=True)]
            images.append(
                [
                    [
                        (pixel[c], float(y == c))
                        for pixel, y in zip(p, labels, strict=True)
                        if y != VOID
                    ]
                    for c in range(len(scores))
                ]
            )
    return images


def lacking(
    of_region: Callable[[list[tuple[float, float]]], float],
    mode: str = "multiclass",
    *,
    activated: bool = False,
    present: bool = False,
) -> Callable[..., Tensor]:
    """The mean over regions of what each lacks, an image at a time."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        values = []
        for regions in pixels(pred, target, mode, activated=activated):
            kept = [r for r in regions if not present or any(g > 0 for _, g in r)]
            values.append(sum(of_region(r) for r in kept) / max(len(kept), 1))
        return torch.tensor(values, dtype=torch.float64)

    return reference


def tversky(alpha: float, beta: float, smooth: float, power: float = 1.0):
    """Eq. 3 of arXiv:1706.05721, one minus it and to a power."""

    def formula(region: list[tuple[float, float]]) -> float:
        hit = sum(p * g for p, g in region) + smooth
        false_positive = sum(p * (1 - g) for p, g in region)
        false_negative = sum((1 - p) * g for p, g in region)
        return (1 - hit / (hit + alpha * false_positive + beta * false_negative)) ** power

    return formula


def dice(smooth: float, power: int):
    """The Dice coefficient of arXiv:1606.04797, one minus it."""

    def formula(region: list[tuple[float, float]]) -> float:
        both = sum(p * g for p, g in region)
        return 1 - (2 * both + smooth) / (sum(p**power + g**power for p, g in region) + smooth)

    return formula


CASES = [
    Case({"type": "TverskyLoss", "mode": "multiclass"}, maps, lacking(tversky(0.3, 0.7, 1))),
    Case(
        {"type": "TverskyLoss", "mode": "binary", "alpha": 2.0, "beta": 0.1, "smooth": 0.5},
        region,
        lacking(tversky(2, 0.1, 0.5), "binary"),
    ),
    Case(
        {"type": "TverskyLoss", "mode": "multiclass", "classes": "present", "ignore_index": VOID},
        partly_void,
        lacking(tversky(0.3, 0.7, 1), present=True),
    ),
    Case(
        {"type": "FocalTverskyLoss", "mode": "multiclass", "ignore_index": VOID},
        partly_void,
        lacking(tversky(0.3, 0.7, 1, 3 / 4)),
    ),
    Case(
        {"type": "FocalTverskyLoss", "mode": "binary", "gamma": 0.5},
        region,
        lacking(tversky(0.3, 0.7, 1, 2), "binary"),
    ),
    Case(
        {"type": "SoftDiceLoss", "mode": "multiclass", "smooth": 0.1}, maps, lacking(dice(0.1, 2))
    ),
    Case(
        {"type": "SoftDiceLoss", "mode": "binary", "squared": False},
        region,
        lacking(dice(1, 1), "binary"),
    ),
    Case(
        {"type": "SoftDiceLoss", "mode": "multilabel", "squared": False, "activated": True},
        soft,
        lacking(dice(1, 1), "multilabel", activated=True),
        wrt=("pred", "target"),
    ),
    Case(
        {"type": "SoftDiceLoss", "mode": "multilabel"},
        lambda rows: soft(rows) | {"pred": normal(rows, 3, 4)},
        lacking(dice(1, 2), "multilabel"),
    ),
]
