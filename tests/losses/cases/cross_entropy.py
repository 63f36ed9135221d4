"""Cross entropies."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, whole
from tests.losses.cases.classes import classes, hot, soft

WEIGHTS = [0.5, 2.0, 3.0]


def maps(rows: int) -> Inputs:
    """Scores [N, 3, 2, 2] of a map of 3 classes, class indices [N, 2, 2]."""
    return {"pred": normal(rows, 3, 2, 2), "target": whole(rows, 2, 2, high=2)}


def softmax_entropy(weights: Iterable[float] = (1, 1, 1)) -> Callable[..., Tensor]:
    """-Σ w t log softmax(pred), a row at a time."""

    def row(pred: list[float], target: list[float]) -> float:
        total = sum(math.exp(x) for x in pred)
        return sum(
            -w * t * math.log(math.exp(x) / total)
            for x, t, w in zip(pred, target, weights, strict=True)
        )

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows = zip(pred.tolist(), hot(target), strict=True)
        return torch.tensor([row(*one) for one in rows], dtype=pred.dtype)

    return reference


def sigmoid_entropy(weights: Iterable[float] = (1, 1, 1)) -> Callable[..., Tensor]:
    """-w t log σ(pred) - (1 - t) log(1 - σ(pred)), an element at a time."""

    def element(x: float, t: float, w: float) -> float:
        return -w * t * math.log(sigmoid(x)) - (1 - t) * math.log(1 - sigmoid(x))

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows = zip(pred.tolist(), hot(target), strict=True)
        values = [[element(*one) for one in zip(*row, weights, strict=True)] for row in rows]
        return torch.tensor(values, dtype=pred.dtype)

    return reference


def entropy_of_map(pred: Tensor, target: Tensor) -> Tensor:
    """Softmax cross entropy at each place of a map."""
    flat = pred.permute(0, 2, 3, 1).reshape(-1, 3)
    return softmax_entropy()(flat, target.flatten()).reshape(target.shape)


CASES = [
    Case({"type": "CrossEntropyLoss"}, classes(0, 2), softmax_entropy()),
    Case({"type": "CrossEntropyLoss", "class_weight": WEIGHTS}, soft, softmax_entropy(WEIGHTS)),
    Case({"type": "CrossEntropyLoss"}, maps, entropy_of_map),
    Case(
        {"type": "CrossEntropyLoss", "use_sigmoid": True},
        classes(0, 3),
        sigmoid_entropy(),
        weights="vector",
    ),
    Case(
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": WEIGHTS},
        soft,
        sigmoid_entropy(WEIGHTS),
    ),
    Case({"type": "CrossEntropyCustomLoss", "num_classes": 2}, classes(0, 2), softmax_entropy()),
    Case(
        {"type": "CrossEntropyCustomLoss", "num_classes": 3, "use_sigmoid": True},
        classes(0, 3),
        sigmoid_entropy(),
        weights="vector",
    ),
]
