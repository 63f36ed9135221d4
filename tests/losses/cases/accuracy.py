"""Accuracy."""

import torch
from torch import Tensor

from tests.losses.case import Case
from tests.losses.cases.classes import classes


def accuracy(*topk: int, thresh: float = float("-inf")):
    """How many of a hundred labels are among the k highest scores, by sorting."""

    def right(scores: list[float], label: int, k: int) -> bool:
        highest = sorted(range(3), key=lambda c: -scores[c])[:k]
        return label in highest and scores[label] > thresh

    def reference(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        rows = list(zip(pred.tolist(), target.tolist(), strict=True))
        return {
            f"top{k}": torch.tensor([100 * sum(right(*row, k) for row in rows) / len(rows)])
            for k in topk
        }

    return reference


CASES = [
    Case({"type": "Accuracy"}, classes(0, 3), accuracy(1)),
    Case(
        {"type": "Accuracy", "topk": [1, 2], "thresh": 0.2},
        classes(0, 2),
        accuracy(1, 2, thresh=0.2),
    ),
]
