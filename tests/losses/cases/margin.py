"""Squared errors of similarities, with margins and hard negatives."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, uniform

BY_COUNT = "a mean divides by the number of weights above 0"


def similarities(rows: int) -> Inputs:
    """Similarities in [0, 1), a first row of positives, and all else negatives."""
    target = torch.zeros(rows, 3, dtype=torch.float64)
    target[:1] = 1
    return {"pred": uniform(rows, 3), "target": target}


def weighted(rows: int) -> Inputs:
    """Similarities with weights, some of them 0 and some below."""
    inputs = similarities(rows)
    return inputs | {"weight": (2 * uniform(rows, 3, seed=1) - 0.5).round(decimals=1)}


def squares(
    positive: float = 0.0, negative: float = 0.0, most: float = float("inf")
) -> Callable[..., Tensor]:
    """The rules of L2Loss with hard negatives, an element at a time."""

    def reference(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        weights = [1.0] * pred.numel() if weight is None else weight.flatten().tolist()
        losses, negatives, positives = [], [], 0
        elements = zip(pred.flatten().tolist(), target.flatten().tolist(), weights, strict=True)
        for i, (p, t, w) in enumerate(elements):
            wanted = t if w > 0 else -1.0
            margin = {1: positive, 0: negative}.get(int(wanted), 0.0)
            losses.append((min(1.0, max(0.0, p - margin)) - wanted) ** 2)
            positives += wanted == 1
            if wanted == 0:
                negatives.append(i)
        if len(negatives) > positives * most:
            negatives.sort(key=lambda i: -losses[i])
            for i in negatives[int(positives * most) :]:
                weights[i] = 0.0
        values = [one * w for one, w in zip(losses, weights, strict=True)]
        return torch.tensor(values, dtype=torch.float64).reshape(pred.shape)

    return reference


CASES = [
    Case({"type": name} | more, inputs, reference, reduces_otherwise=BY_COUNT)
    for name in ("L2Loss", "MarginL2Loss")
    for inputs in (similarities, weighted)
    for more, reference in (
        ({}, squares()),
        ({"pos_margin": 0.1, "neg_margin": 0.2}, squares(0.1, 0.2)),
        ({"neg_pos_ub": 1, "hard_mining": True}, squares(most=1)),
        ({"neg_pos_ub": 1}, None),
    )
]
