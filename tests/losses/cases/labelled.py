"""Contrastive losses of labels."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal
from tests.losses.cases.contrastive import Rows, cosine, dot, entropy


def labelled(rows: int) -> Inputs:
    """Vectors [N, 3] of two classes by turns, the second one alone of a third."""
    target = torch.arange(rows) % 2
    target[1:2] = -7
    return {"pred": normal(rows, 3), "target": target}


def seen_twice(rows: int) -> Inputs:
    """Two views of each, [N, 2, 3]."""
    return labelled(rows) | {"pred": normal(rows, 2, 3)}


def sup_con(temperature: float = 0.07, base: float = 0.07, like=cosine) -> Callable[..., Tensor]:
    """Eq. 2 of arXiv:2004.11362."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        vectors = pred.reshape(-1, 3).tolist()
        labels = [label for label in target.tolist() for _ in range(pred[0].numel() // 3)]

        def row(i: int) -> float:
            others = [j for j in range(len(vectors)) if j != i]
            score = {j: like(vectors[i], vectors[j]) / temperature for j in others}
            found = [
                entropy(score[p], [score[a] for a in others if a != p])
                for p in others
                if labels[p] == labels[i]
            ]
            return temperature / base * sum(found) / len(found) if found else 0.0

        rows = [row(i) for i in range(len(vectors))]
        return torch.tensor(rows, dtype=pred.dtype).reshape(pred.shape[:-1])

    return reference


def circle_row(m: float, gamma: float, i: int, vectors: Rows, labels: list[int], at: Rows) -> float:
    """Eq. 6 of arXiv:2002.10857 for anchor i, weights being those of the vectors `at`."""
    near = far = 0.0
    for j in range(len(vectors)):
        s, weighed = cosine(vectors[i], vectors[j]), cosine(at[i], at[j])
        if labels[i] != labels[j]:
            far += math.exp(gamma * max(0, weighed + m) * (s - m))
        elif i != j:
            near += math.exp(-gamma * max(0, 1 + m - weighed) * (s - 1 + m))
    return math.log(1 + near * far)


def circle(m: float, gamma: float) -> Case:
    """The case, with a reference for the loss and one for its gradient by differences."""

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        vectors, labels = pred.tolist(), target.tolist()
        rows = [circle_row(m, gamma, i, vectors, labels, vectors) for i in range(len(vectors))]
        return torch.tensor(rows, dtype=pred.dtype)

    def total(vectors: Tensor, target: Tensor, at: Tensor) -> float:
        given = vectors.tolist(), target.tolist(), at.tolist()
        return sum(circle_row(m, gamma, i, *given) for i in range(len(at)))

    def gradient(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        found = torch.zeros_like(pred)
        for place in range(pred.numel()):
            step = torch.zeros_like(pred)
            step.view(-1)[place] = 1e-6
            rise = total(pred + step, target, pred) - total(pred - step, target, pred)
            found.view(-1)[place] = rise / 2e-6
        return {"pred": found}

    config = {"type": "CircleLoss", "m": m, "gamma": gamma}
    return Case(config, labelled, loss, stops=STOPS, gradient=gradient)


STOPS = "no gradient goes through the weights of the similarities (eq. 10)"

CASES = [
    Case({"type": "SupConLoss"}, labelled, sup_con()),
    Case({"type": "SupConLoss", "temperature": 0.3}, seen_twice, sup_con(0.3)),
    Case(
        {"type": "SupConLoss", "normalize": False, "temperature": 2, "base_temperature": 1},
        labelled,
        sup_con(2, 1, dot),
    ),
    circle(0.25, 8),
    circle(0.4, 80),
]
