"""torch's losses that bring a last layer of their own."""

import math

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, whole

FEATURES, CLASSES, CUTOFFS = 3, 7, [2, 4]


def linear(rows: int) -> Inputs:
    """Rows of 3 features, class indices, and a layer to 4 classes."""
    return {
        "pred": normal(rows, FEATURES),
        "target": whole(rows, high=3),
        "linear_weight": normal(4, FEATURES, seed=1),
        "linear_bias": normal(4, seed=2),
    }


def two_labels(rows: int) -> Inputs:
    """Rows of 3 features with two labels each, and a layer to 4 classes for each of them."""
    return {
        "pred": normal(rows, FEATURES),
        "target": whole(rows, 2, high=3),
        "linear_weight": normal(8, FEATURES, seed=1),
    }


def clusters(rows: int) -> Inputs:
    """Rows of 3 features, class indices, a head of 2 classes, clusters of 2 and of 3."""
    return {
        "pred": normal(rows, FEATURES),
        "target": whole(rows, high=CLASSES - 1),
        "head_weight": normal(4, FEATURES, seed=1),
        "head_bias": normal(4, seed=2),
        "tail": [
            [normal(2, FEATURES, seed=3), normal(2, 2, seed=4)],
            [normal(1, FEATURES, seed=5), normal(3, 1, seed=6)],
        ],
    }


def product(matrix: list[list[float]], row: list[float]) -> list[float]:
    """Of a matrix and a vector."""
    return [sum(w * x for w, x in zip(line, row, strict=True)) for line in matrix]


def log_softmax(scores: list[float], place: int) -> float:
    """At one place."""
    return scores[place] - math.log(sum(math.exp(x) for x in scores))


def plus(left: list[float], right: list[float]) -> list[float]:
    """Element by element."""
    return [a + b for a, b in zip(left, right, strict=True)]


def linear_entropy(
    pred: Tensor, target: Tensor, linear_weight: Tensor, linear_bias: Tensor
) -> Tensor:
    """Cross entropy of a linear layer, a row at a time."""
    weight, bias = linear_weight.tolist(), linear_bias.tolist()
    rows = zip(pred.tolist(), target.tolist(), strict=True)
    values = [-log_softmax(plus(product(weight, row), bias), label) for row, label in rows]
    return torch.tensor(values, dtype=torch.float64)


def entropy_of_two(pred: Tensor, target: Tensor, linear_weight: Tensor) -> Tensor:
    """The same of two labels; line c · 2 + d of the layer scores class c of label d."""
    values = [
        [
            -log_softmax(product(linear_weight[d::2].tolist(), row), label)
            for d, label in enumerate(labels)
        ]
        for row, labels in zip(pred.tolist(), target.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def adaptive(
    pred: Tensor,
    target: Tensor,
    head_weight: Tensor,
    head_bias: Tensor,
    tail: list[list[Tensor]],
) -> Tensor:
    """The probability of the cluster times that of the class within it."""
    values = []
    for row, label in zip(pred.tolist(), target.tolist(), strict=True):
        head = plus(product(head_weight.tolist(), row), head_bias.tolist())
        if label < CUTOFFS[0]:
            values.append(-log_softmax(head, label))
            continue
        cluster = 0 if label < CUTOFFS[1] else 1
        narrow, wide = (matrix.tolist() for matrix in tail[cluster])
        inside = log_softmax(product(wide, product(narrow, row)), label - CUTOFFS[cluster])
        values.append(-log_softmax(head, CUTOFFS[0] + cluster) - inside)
    return torch.tensor(values, dtype=torch.float64)


CASES = [
    Case(
        {
            "type": "torch.LinearCrossEntropyLoss",
            "in_features": FEATURES,
            "num_classes": 4,
            "bias": True,
        },
        linear,
        linear_entropy,
        wrt=("pred", "linear_weight", "linear_bias"),
    ),
    Case(
        {
            "type": "torch.LinearCrossEntropyLoss",
            "in_features": FEATURES,
            "num_classes": 4,
            "out_features": [2],
        },
        two_labels,
        entropy_of_two,
        wrt=("pred", "linear_weight"),
    ),
    Case(
        {
            "type": "torch.AdaptiveLogSoftmaxWithLoss",
            "in_features": FEATURES,
            "n_classes": CLASSES,
            "cutoffs": CUTOFFS,
            "head_bias": True,
        },
        clusters,
        adaptive,
        wrt=("pred", "head_weight", "head_bias", "tail"),
    ),
]
