"""Seesaw loss."""

import math
import struct
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, whole


def detected(rows: int) -> Inputs:
    """Scores of 3 classes, object and background; class indices of which 3 is background."""
    return {"pred": 2 * normal(rows, 5), "target": whole(rows, high=3, seed=1)}


def objects(rows: int) -> Inputs:
    """The same without background."""
    return {"pred": 2 * normal(rows, 5), "target": whole(rows, high=2, seed=1)}


def single(x: float) -> float:
    """The nearest float32."""
    return struct.unpack("f", struct.pack("f", x))[0]


def entropy(scores: list[float], label: int, factors: list[float]) -> float:
    """-log softmax of the label, each e^z by its factor."""
    total = sum(s * math.exp(z) for s, z in zip(factors, scores, strict=True))
    return -math.log(math.exp(scores[label]) / total)


def seesaw(p: float, q: float, eps: float) -> Callable[..., dict[str, Tensor]]:
    """Both outputs of the first call, in the products of arXiv:2008.10032."""

    def factor(scores: list[float], counts: list[int], i: int, j: int) -> float:
        mitigation = single(single(counts[j] / counts[i]) ** p) if counts[j] < counts[i] else 1.0
        total = sum(math.exp(z) for z in scores)
        ratio = math.exp(scores[j]) / max(math.exp(scores[i]), eps * total)
        return mitigation * max(1.0, ratio) ** q

    def reference(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        labels = target.tolist()
        counts = [max(1, labels.count(c)) for c in range(3)]
        classes = [
            entropy(
                row[:3], i, [factor(row[:3], counts, i, j) if i != j else 1.0 for j in range(3)]
            )
            for row, i in zip(pred.tolist(), labels, strict=True)
            if i < 3
        ]
        objectness = [
            entropy(row[3:], int(i == 3), [1.0, 1.0])
            for row, i in zip(pred.tolist(), labels, strict=True)
        ]
        return {
            "loss_cls_objectness": torch.tensor(objectness, dtype=torch.float64),
            "loss_cls_classes": torch.tensor(classes, dtype=torch.float64),
        }

    return reference


CASES = [
    Case(
        {"type": "SeesawLoss", "num_classes": 3},
        detected,
        seesaw(0.8, 2.0, 1e-2),
        reduces_otherwise="two outputs, each with a mean of its own",
        stops="the compensation of a score has none",
    ),
    Case(
        {"type": "SeesawLoss", "num_classes": 3, "q": 0.0},
        detected,
        seesaw(0.8, 0.0, 1e-2),
        reduces_otherwise="two outputs, each with a mean of its own",
    ),
    Case(
        {"type": "SeesawLoss", "num_classes": 3, "q": 0.0, "return_dict": False},
        objects,
        lambda **inputs: sum(seesaw(0.8, 0.0, 1e-2)(**inputs).values()),
    ),
]
