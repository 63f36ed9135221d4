"""Boundary losses, the distances by looking at every other pixel."""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, uniform, whole
from tests.losses.cases.overlap import softmax


def labelled(rows: int) -> Inputs:
    """Scores [N, 3, 3, 4], class indices [N, 3, 4]; class 2 is in the first row alone."""
    labels = whole(rows, 3, 4, high=1, seed=1)
    labels[:1, 1, 1:3] = 2
    return {"pred": normal(rows, 3, 3, 4), "target": labels.to(torch.uint8)}


def masks(rows: int) -> Inputs:
    """Scores [N, 1, 2, 3, 2], masks [N, 2, 3, 2], the first full."""
    target = whole(rows, 2, 3, 2, high=1, seed=1).bool()
    target[:1] = True
    return {"pred": normal(rows, 1, 2, 3, 2), "target": target}


def distances(rows: int) -> Inputs:
    """Probabilities and distances [N, 2, 5]."""
    return {"pred": 0.1 + 0.8 * uniform(rows, 2, 5), "target": 3 * normal(rows, 2, 5, seed=1)}


def signed_distance(mask: Tensor, place: tuple[int, ...]) -> float:
    """Distance of a pixel to the nearest of the other side; 1 minus it within the mask."""
    within = bool(mask[place])
    others = [
        math.dist(place, other)
        for other in product(*map(range, mask.shape))
        if bool(mask[other]) != within
    ]
    if not others:
        return 0.0
    return 1 - min(others) if within else min(others)


def of_labels(pred: Tensor, target: Tensor) -> Tensor:
    """Softmax probabilities times the distances of each class's mask."""
    out = torch.zeros_like(pred)
    for n, place in product(range(len(pred)), product(*map(range, target.shape[1:]))):
        for c, p in enumerate(softmax(pred[n, :, *place].tolist())):
            out[n, c, *place] = p * signed_distance(target[n] == c, place)
    return out


def of_masks(pred: Tensor, target: Tensor) -> Tensor:
    """Sigmoid probabilities times the distances of each row's mask."""
    out = torch.zeros_like(pred)
    for n, place in product(range(len(pred)), product(*map(range, target.shape[1:]))):
        out[n, 0, *place] = sigmoid(float(pred[n, 0, *place])) * signed_distance(target[n], place)
    return out


def products(activate: Callable[[float], float]) -> Callable[..., Tensor]:
    """φ times the probability, an element at a time."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        pairs = zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        values = torch.tensor([activate(x) * phi for x, phi in pairs], dtype=pred.dtype)
        return values.reshape(pred.shape)

    return reference


CASES = [
    Case(
        {"type": "BoundaryLoss", "mode": "multiclass", "target_form": "masks"}, labelled, of_labels
    ),
    Case({"type": "BoundaryLoss", "mode": "binary", "target_form": "masks"}, masks, of_masks),
    Case(
        {"type": "BoundaryLoss", "mode": "binary", "activated": True},
        distances,
        products(lambda p: p),
        wrt=("pred", "target"),
    ),
    Case(
        {"type": "BoundaryLoss", "mode": "binary"},
        lambda rows: {"pred": normal(rows, 1, 4), "target": normal(rows, 4, seed=1)},
        products(sigmoid),
        wrt=("pred", "target"),
    ),
]
