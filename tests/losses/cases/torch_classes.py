"""torch's losses of one label among classes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, by_row, normal, whole

WEIGHTS = [0.5, 2.0, 3.0]
IGNORED = -7


def labels(rows: int) -> Inputs:
    """Logits of 3 classes, class indices."""
    return {"pred": 2 * normal(rows, 3), "target": whole(rows, high=2)}


def some_ignored(rows: int) -> Inputs:
    """The same with the first and fifth row ignored."""
    inputs = labels(rows)
    inputs["target"][::4] = IGNORED
    return inputs


def log_probabilities(make: Callable[[int], Inputs]) -> Callable[[int], Inputs]:
    """Of the logits."""

    def inputs(rows: int) -> Inputs:
        made = make(rows)
        return made | {"pred": made["pred"].log_softmax(1)}

    return inputs


def maps(rows: int) -> Inputs:
    """Logits [N, 3, 2, 2], class indices [N, 2, 2]."""
    return {"pred": normal(rows, 3, 2, 2), "target": whole(rows, 2, 2, high=2)}


def soft(rows: int) -> Inputs:
    """Logits and probabilities of 3 classes."""
    return {"pred": 2 * normal(rows, 3), "target": normal(rows, 3, seed=1).softmax(1)}


def entropy(smoothing: float = 0, weights: list[float] | None = None) -> Callable[..., float]:
    """-Σ w q log softmax(pred), where q is the target, smoothed."""

    def row(pred: list[float], target: int | list[float]) -> float:
        if target == IGNORED:
            return 0
        t = target if isinstance(target, list) else [float(c == target) for c in range(len(pred))]
        total = sum(math.exp(x) for x in pred)
        return -sum(
            w * (smoothing / len(pred) + (1 - smoothing) * q) * math.log(math.exp(x) / total)
            for w, q, x in zip(weights or [1.0] * len(pred), t, pred, strict=True)
        )

    return row


def over_maps(row: Callable[..., float]) -> Callable[..., Tensor]:
    """A formula of [C] and a label, at each place of a map."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        flat = pred.permute(0, 2, 3, 1).reshape(-1, 3)
        return by_row(row)(pred=flat, target=target.flatten()).reshape(target.shape)

    return reference


def likelihood(pred: list[float], target: int) -> float:
    """-w log-probability of the label."""
    return 0 if target == IGNORED else -WEIGHTS[target] * pred[target]


def entropy_case(make: Callable[[int], Inputs], **params: object) -> Case:
    """A cross entropy with these parameters."""
    smoothing, weights = params.get("label_smoothing", 0), params.get("weight")
    return Case(
        {"type": "torch.CrossEntropyLoss", **params},
        make,
        by_row(entropy(smoothing, weights)),
        reduces_otherwise="by the weights of the labels" if weights or make is some_ignored else "",
    )


def map_likelihood(pred: Tensor, target: Tensor) -> Tensor:
    """The negative log-probability of the label at each place of a map."""
    places = zip(pred.permute(0, 2, 3, 1).reshape(-1, 3), target.flatten(), strict=True)
    return torch.stack([-row[label] for row, label in places]).reshape(target.shape)


CASES = [
    entropy_case(labels),
    entropy_case(labels, weight=WEIGHTS, label_smoothing=0.3),
    entropy_case(some_ignored, ignore_index=IGNORED, label_smoothing=0.1),
    entropy_case(soft, weight=WEIGHTS, label_smoothing=0.2),
    Case({"type": "torch.CrossEntropyLoss"}, maps, over_maps(entropy())),
    Case({"type": "torch.NLLLoss"}, log_probabilities(maps), map_likelihood),
    Case(
        {"type": "torch.NLLLoss", "weight": WEIGHTS, "ignore_index": IGNORED},
        log_probabilities(some_ignored),
        by_row(likelihood),
        reduces_otherwise="by the weights of the labels",
    ),
]
