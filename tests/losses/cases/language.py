"""Losses of a language model's logits."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from tests.losses.case import Case, Inputs, by_row, normal, whole
from tests.losses.cases import divergence
from tests.losses.cases.divergence import MASKED


def tokens(rows: int) -> Inputs:
    """Logits [N, 5], class indices, the first token ignored."""
    target = whole(rows, high=4, seed=1)
    target[:1] = -100
    return {"pred": 3 * normal(rows, 5), "target": target}


def sequences(rows: int) -> Inputs:
    """Logits [B, 3, 5], class indices."""
    return {"pred": 3 * normal(rows, 3, 5), "target": whole(rows, 3, high=4, seed=1)}


def padded(rows: int) -> Inputs:
    """Logits [N, 3, 4], of whose tokens not all count."""
    given = divergence.padded(rows)
    return {"pred": given["pred"], "mask": given["mask"]}


def z(pred: list[float]) -> float:
    """Section 5 of arXiv:2204.02311."""
    return 1e-4 * math.log(sum(math.exp(x) for x in pred)) ** 2


def smoothed(smoothing: float) -> Callable[..., Tensor]:
    """What torch says."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        rows, labels = pred.flatten(0, -2), target.flatten()
        found = F.cross_entropy(rows, labels, reduction="none", label_smoothing=smoothing)
        return found.reshape(target.shape)

    return reference


CASES = [
    Case({"type": "ZLoss"}, lambda rows: {"pred": 3 * normal(rows, 5)}, by_row(z)),
    Case(
        {"type": "ZLoss", "coefficient": 2},
        lambda rows: {"pred": normal(rows, 2, 4)},
        lambda pred: 2 * pred.exp().sum(-1).log() ** 2,
    ),
    Case(
        {"type": "ZLoss"},
        padded,
        lambda pred, mask: 1e-4 * pred.exp().sum(-1).log() ** 2 * mask,
        reduces_otherwise=MASKED,
    ),
    Case({"type": "LabelSmoothingLoss"}, tokens, smoothed(0.1)),
    Case({"type": "LabelSmoothingLoss", "label_smoothing": 0.3}, sequences, smoothed(0.3)),
    Case({"type": "LabelSmoothingLoss", "label_smoothing": 0}, sequences, smoothed(0)),
]
