"""Lovász losses, by the Jaccard loss of every set of the worst pixels."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, uniform
from tests.losses.cases.overlap import VOID, maps, partly_void, pixels, region


def jaccard_loss(wrong: set[int], positive: set[int]) -> float:
    """One minus the Jaccard index if just these pixels are wrong."""
    return len(wrong) / len(positive | wrong) if wrong else 0.0


def lovasz(errors: list[float], positive: set[int]) -> float:
    """The Lovász extension, by its definition."""
    worst = sorted(range(len(errors)), key=lambda i: -errors[i])
    return sum(
        max(errors[i], 0.0)
        * (jaccard_loss(set(worst[: k + 1]), positive) - jaccard_loss(set(worst[:k]), positive))
        for k, i in enumerate(worst)
    )


def hinge(pred: Tensor, target: Tensor) -> Tensor:
    """Of the hinge losses of an image's pixels, without the void ones."""
    values = []
    for scores, labels in zip(pred.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        kept = [(x, g) for x, g in zip(scores, labels, strict=True) if g != VOID]
        errors = [1 - x * (1 if g else -1) for x, g in kept]
        values.append(lovasz(errors, {i for i, (_, g) in enumerate(kept) if g}))
    return torch.tensor(values, dtype=torch.float64)


def softmax(*, present: bool, activated: bool = False) -> Callable[..., Tensor]:
    """The mean over classes, of the errors of probabilities."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        scores = pred.log() if activated else pred
        values = []
        for regions in pixels(scores, target, "multiclass"):
            kept = [r for r in regions if not present or any(g for _, g in r)]
            of_class = [
                lovasz([abs(g - p) for p, g in r], {i for i, (_, g) in enumerate(r) if g})
                for r in kept
            ]
            values.append(sum(of_class) / max(len(kept), 1))
        return torch.tensor(values, dtype=torch.float64)

    return reference


def with_void(rows: int) -> Inputs:
    """A region of which the first pixel counts nothing, and a row has no positive one."""
    target = region(rows)["target"].to(torch.uint8)
    target[:1] = 0
    target[:, 0] = VOID
    return region(rows) | {"target": target}


def probabilities(rows: int) -> Inputs:
    """Maps of probabilities."""
    p = 0.1 + uniform(rows, 3, 2, 3)
    return maps(rows) | {"pred": p / p.sum(1, keepdim=True)}


CASES = [
    Case({"type": "LovaszHingeLoss"}, region, hinge),
    Case({"type": "LovaszHingeLoss", "ignore_index": VOID}, with_void, hinge),
    Case({"type": "LovaszSoftmaxLoss"}, maps, softmax(present=True)),
    Case(
        {"type": "LovaszSoftmaxLoss", "ignore_index": VOID, "classes": "all"},
        partly_void,
        softmax(present=False),
    ),
    Case({"type": "LovaszSoftmaxLoss", "ignore_index": VOID}, partly_void, softmax(present=True)),
    Case(
        {"type": "LovaszSoftmaxLoss", "activated": True},
        probabilities,
        softmax(present=True, activated=True),
    ),
]
