"""Linear cross entropy."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, whole


def hidden(rows: int) -> Inputs:
    """Hidden states [N, 3] and a head of 7 classes; the first token is ignored."""
    target = whole(rows, high=6, seed=1)
    target[:1] = -100
    return {"pred": 2 * normal(rows, 3), "target": target, "head": normal(7, 3, seed=2)}


def sequences(rows: int) -> Inputs:
    """Hidden states [B, 2, 3] and a head of 7 classes with a bias."""
    pred, target = 2 * normal(rows, 2, 3), whole(rows, 2, high=6, seed=1)
    return {"pred": pred, "target": target, "head": normal(7, 3, seed=2), "bias": normal(7, seed=3)}


def in_one(
    softcap: float | None = None, z_loss: float = 0, smoothing: float = 0
) -> Callable[..., Tensor]:
    """All logits at once, and torch's cross entropy of them."""

    def reference(pred: Tensor, target: Tensor, head: Tensor, bias: Tensor | None = None) -> Tensor:
        x = F.linear(pred, head, bias).flatten(0, -2)
        x = x if softcap is None else softcap * torch.tanh(x / softcap)
        labels = target.flatten()
        loss = F.cross_entropy(x, labels, reduction="none", label_smoothing=smoothing)
        z = x.exp().sum(-1).log() ** 2
        return (loss + z_loss * z * (labels >= 0)).reshape(target.shape)

    return reference


WITH_BIAS = ("pred", "head", "bias")
LINEAR = {"type": "LinearCrossEntropyLoss"}
EVERYTHING = LINEAR | {"softcap": 3, "z_loss": 0.01, "label_smoothing": 0.1}

CASES = [
    Case(LINEAR, hidden, in_one(), ("pred", "head")),
    Case(LINEAR, sequences, in_one(), WITH_BIAS),
    Case(EVERYTHING, hidden, in_one(3, 0.01, 0.1), ("pred", "head")),
    Case(EVERYTHING, sequences, in_one(3, 0.01, 0.1), WITH_BIAS),
]
