"""What the losses of torch.nn share: their shapes, and what their mean divides by.

They are torch's own in value and gradient. Where torch's documentation names a
shape and its code would broadcast any, the documented one is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import floating, name_of, require
from lossserver.losses.rows import Elementwise, Exact, RowwiseLoss
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True)
class Alike(Exact, Elementwise):
    """A loss of inputs of the same shape, element by element."""

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        for name, given in inputs.items():
            same_shape(name, given, inputs["pred"])
        return inputs, tuple(inputs["pred"].shape)


@dataclass(frozen=True, kw_only=True)
class Vectors(Exact, RowwiseLoss):
    """A loss of vectors along the last dimension: ℓ has all the other dimensions."""

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        pred = inputs["pred"]
        if not pred.dim() or not pred.shape[-1]:
            raise RefusedError("pred", "must be vectors of one element or more", list(pred.shape))
        for name, given in inputs.items():
            same_shape(name, given, pred)
        return inputs, tuple(pred.shape[:-1])

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        # A lone vector is one row without a dimension for it.
        return inputs["pred"].dim() > 1 and super().aligned(inputs)

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero.unsqueeze(-1)


@dataclass(frozen=True, kw_only=True)
class OfLabels(Exact):
    """A loss over classes whose mean divides by the weights of the labels that are not ignored."""

    weight: tuple[float, ...] | None = None
    ignore_index: int | None = -100

    @property
    def ignored(self) -> int:
        """The label that counts nothing."""
        return -100 if self.ignore_index is None else self.ignore_index

    def class_weight(self, like: Tensor) -> Tensor | None:
        """The weight of each class, as a tensor like another."""
        return None if self.weight is None else like.new_tensor(self.weight)

    def fit_labels(
        self, scores: tuple[int, ...], target: Tensor, *, soft: bool = True
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The target of scores [C] or [N, C, ...], and the shape of ℓ.

        Parameters:
            scores: their shape.
            target: class indices or, if `soft`, probabilities shaped like the scores.
            soft: whether there may be probabilities.
        """
        if not scores:
            raise RefusedError("pred", "must have a dimension of classes", [])
        axis = min(1, len(scores) - 1)
        classes, shape = scores[axis], scores[:axis] + scores[axis + 1 :]
        one_a_class("weight", self.weight, classes)
        if soft and tuple(target.shape) == scores:
            rule = "goes with class indices, not with probabilities"
            require(self.ignored < 0, "config.ignore_index", rule, self.ignored)
            return floating(target, "target"), shape
        if tuple(target.shape) != shape:
            also = f" or probabilities {list(scores)}" if soft else ""
            rule = f"must be class indices {list(shape)}{also} for classes {list(scores)}"
            raise RefusedError("target", rule, list(target.shape))
        labels = labels_of(target)
        allowed = f"in 0..{classes - 1}, or {self.ignored} to be ignored"
        refuse_outside(labels[labels != self.ignored], 0, classes - 1, allowed)
        return labels, shape

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        target = inputs["target"]
        if target.is_floating_point():
            return None
        counted = target[target != self.ignored]
        if self.weight is None:
            return float(counted.numel())
        weight = torch.tensor(self.weight, dtype=torch.float64, device=target.device)
        return float(weight[counted].sum())


@dataclass(frozen=True, kw_only=True)
class Smoothed(OfLabels):
    """The softmax cross entropy of a label, some of which goes to all classes alike."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be in [0, 1]"
        require(0 <= self.label_smoothing <= 1, "label_smoothing", rule, self.label_smoothing)

    def entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """ℓ [N, ...] of logits [N, C, ...]."""
        return F.cross_entropy(
            logits,
            target,
            weight=self.class_weight(logits),
            ignore_index=self.ignored,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )


def one_a_class(parameter: str, given: tuple[float, ...] | None, classes: int) -> None:
    """Refuse a parameter that is given, but not a number a class."""
    if given is not None:
        rule = f"must have one number a class, of which there are {classes}"
        require(len(given) == classes, f"config.{parameter}", rule, len(given))


def same_shape(name: str, given: Tensor, pred: Tensor) -> None:
    """Refuse an input that is not of numbers, or not shaped like pred."""
    numbers(name, given)
    rule = f"must be shaped like pred, {list(pred.shape)}"
    require(given.shape == pred.shape, name, rule, list(given.shape))


def numbers(name: str, given: Tensor) -> None:
    """Refuse truth values, with which torch will not calculate."""
    require(given.dtype is not torch.bool, name, "must hold numbers", name_of(given.dtype))
