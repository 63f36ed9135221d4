"""One row a loss or form of it: config, an input maker, and a reference written from the paper.

The references are scalar arithmetic of Python's math module, an element at a
time, and share no code with the losses.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A loss, inputs for it, and what it must give.

    Attributes:
        config: the registry's config.
        inputs: rows → pred in float64, target.
        reference: pred, target → unreduced loss.
    """

    config: dict[str, Any]
    inputs: Callable[[int], Inputs]
    reference: Callable[[Tensor, Tensor], Tensor]

    def __str__(self) -> str:
        given = ",".join(f"{k}={v}" for k, v in self.config.items() if k != "type")
        return f"{self.config['type']}({given})"


def generator(rows: int) -> torch.Generator:
    return torch.Generator().manual_seed(rows)


def boxes(rows: int) -> Inputs:
    g = generator(rows)
    return tuple(3 * torch.randn(rows, 4, generator=g, dtype=torch.float64) for _ in "pt")


def scores(rows: int) -> Tensor:
    return 2 * torch.randn(rows, 3, generator=generator(rows), dtype=torch.float64)


def classes(lowest: int, highest: int) -> Callable[[int], Inputs]:
    """Scores of 3 classes, labels in lowest..highest."""
    return lambda rows: (
        scores(rows),
        torch.randint(lowest, highest + 1, (rows,), generator=generator(rows + 1)),
    )


def soft(rows: int) -> Inputs:
    """Scores of 3 classes, and a distribution over them."""
    return scores(rows), torch.softmax(scores(rows + 1)[:rows], 1)


def probabilities(rows: int) -> Inputs:
    pred, target = classes(0, 3)(rows)
    return pred.sigmoid(), target


def maps(rows: int) -> Inputs:
    """Scores [N, 3, 2, 2] of a map of 3 classes, labels [N, 2, 2]."""
    g = generator(rows)
    pred = torch.randn(rows, 3, 2, 2, generator=g, dtype=torch.float64)
    return pred, torch.randint(0, 3, (rows, 2, 2), generator=g)


def each(formula: Callable[..., float]) -> Callable[[Tensor, Tensor], Tensor]:
    """A formula of two numbers, over all elements."""
    return lambda pred, target: torch.tensor(
        [
            formula(p, t)
            for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        ],
        dtype=pred.dtype,
    ).reshape(pred.shape)


def smooth_l1(beta: float) -> Callable[[float, float], float]:
    def formula(pred: float, target: float) -> float:
        d = abs(pred - target)
        return d * d / (2 * beta) if d < beta else d - beta / 2

    return formula


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def hot(target: Tensor) -> list[list[float]]:
    """Targets of each class: of labels (one-hot) or as given."""
    if target.dim() == 2:
        return target.tolist()
    return [[float(label == c) for c in range(3)] for label in target.tolist()]


def rowwise(formula: Callable[[list[float], list[float]], Any]) -> Callable[..., Tensor]:
    """A formula of a row of scores and a row of targets, over all rows."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows = [formula(p, t) for p, t in zip(pred.tolist(), hot(target), strict=True)]
        return torch.tensor(rows, dtype=pred.dtype)

    return reference


def focal(gamma: float, alpha: float, activate: Callable[[float], float] = sigmoid):
    """Eq. 5 of arXiv:1708.02002; a soft target t weighs the two of its halves."""

    def row(pred: list[float], target: list[float]) -> list[float]:
        out = []
        for x, t in zip(pred, target, strict=True):
            p = activate(x)
            entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
            out.append(
                (alpha * t + (1 - alpha) * (1 - t)) * (t * (1 - p) + (1 - t) * p) ** gamma * entropy
            )
        return out

    return rowwise(row)


def softmax_entropy(weights: Iterable[float] = (1, 1, 1)) -> Callable[..., Tensor]:
    def row(pred: list[float], target: list[float]) -> float:
        total = sum(math.exp(x) for x in pred)
        return sum(
            -w * t * math.log(math.exp(x) / total)
            for x, t, w in zip(pred, target, weights, strict=True)
        )

    return rowwise(row)


def sigmoid_entropy(weights: Iterable[float] = (1, 1, 1)) -> Callable[..., Tensor]:
    def row(pred: list[float], target: list[float]) -> list[float]:
        return [
            -w * t * math.log(sigmoid(x)) - (1 - t) * math.log(1 - sigmoid(x))
            for x, t, w in zip(pred, target, weights, strict=True)
        ]

    return rowwise(row)


def entropy_of_map(pred: Tensor, target: Tensor) -> Tensor:
    """Softmax cross entropy at each place of a map."""
    flat = pred.permute(0, 2, 3, 1).reshape(-1, 3)
    return softmax_entropy()(flat, target.flatten()).reshape(target.shape)


WEIGHTS = [0.5, 2.0, 3.0]

CASES = [
    Case({"type": "L1Loss"}, boxes, each(lambda p, t: abs(p - t))),
    Case({"type": "SmoothL1Loss"}, boxes, each(smooth_l1(1.0))),
    Case({"type": "SmoothL1Loss", "beta": 0.11}, boxes, each(smooth_l1(0.11))),
    Case({"type": "MSELoss"}, boxes, each(lambda p, t: (p - t) ** 2)),
    Case({"type": "FocalLoss"}, classes(0, 3), focal(2, 0.25)),
    Case({"type": "FocalLoss", "gamma": 0.7, "alpha": 0.9}, soft, focal(0.7, 0.9)),
    Case({"type": "FocalLoss", "activated": True}, probabilities, focal(2, 0.25, lambda p: p)),
    Case({"type": "CrossEntropyLoss"}, classes(0, 2), softmax_entropy()),
    Case({"type": "CrossEntropyLoss", "class_weight": WEIGHTS}, soft, softmax_entropy(WEIGHTS)),
    Case({"type": "CrossEntropyLoss"}, maps, entropy_of_map),
    Case({"type": "CrossEntropyLoss", "use_sigmoid": True}, classes(0, 3), sigmoid_entropy()),
    Case(
        {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": WEIGHTS},
        soft,
        sigmoid_entropy(WEIGHTS),
    ),
]
