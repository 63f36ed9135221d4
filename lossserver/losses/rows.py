"""What a loss promises: how it is called, and whether its rows are independent.

    Loss          computed alone, by autograd through everything. The default.
    RowwiseLoss   row i of its formula reads row i of its inputs and nothing
                  else, so calls of different callers are concatenated along
                  rows, computed once and split.

tests/losses/test_contract.py holds every registered loss to its promise.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lossserver.losses.cotangent import REDUCTIONS, Cotangent, cotangent
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What one call brings: its inputs, and how it wants them reduced.

    Attributes:
        inputs: by name; tensors on the CPU, trees of tensors, or plain values.
        wrt: names of the inputs whose gradients are wanted.
        reduction_override: replaces the loss's own reduction.
        avg_factor: divisor of a mean.
        grad_output: upstream gradient by name of output; absent is ones.
        state: what a loss that remembers returned last.
    """

    inputs: Mapping[str, Any]
    wrt: frozenset[str] = frozenset()
    reduction_override: str | None = None
    avg_factor: float | None = None
    grad_output: Mapping[str, Tensor] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss, built from a config; computed alone.

    Class attributes:
        INPUTS: names a call may carry besides `pred` and `target`.
        OUTPUTS: names of its outputs.
        REMEMBERS: it takes a state and returns the next one.
    """

    INPUTS: ClassVar[frozenset[str]] = frozenset()
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss"})
    REMEMBERS: ClassVar[bool] = False

    @abstractmethod
    def outputs(self, call: Call) -> dict[str, Tensor]:
        """The named outputs of a call, differentiable in its inputs.

        Raises:
            RefusedError: the inputs do not fit the loss.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What one call adds to a batch.

    Attributes:
        formula: the loss, bare. Calls with equal formulas are computed together.
        pred: [N, ...], float.
        target: [N, ...].
        weight: as it was sent; None if it was not.
        cotangent: how the call's rows become its loss.
    """

    formula: "RowwiseLoss"
    pred: Tensor
    target: Tensor
    weight: Tensor | None
    cotangent: Cotangent


@dataclass(frozen=True, kw_only=True)
class RowwiseLoss(Loss):
    """A loss whose row i depends on row i of pred and target, and on nothing else.

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result, also of an unreduced one.
    """

    INPUTS: ClassVar[frozenset[str]] = frozenset({"weight"})

    #: Parameters that do not change the formula, and so do not keep two calls apart.
    OUTSIDE: ClassVar[frozenset[str]] = frozenset({"reduction", "loss_weight"})

    reduction: str = "mean"
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        # "elementwise_mean" is an old name of "mean" that upstream still takes, but not with
        # avg_factor and not as an override.
        if self.reduction not in (*REDUCTIONS, "elementwise_mean"):
            raise RefusedError(
                "reduction", f"must be one of {', '.join(REDUCTIONS)}", self.reduction
            )

    @abstractmethod
    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        """ℓ [N, ...], unreduced."""

    def for_call(self, call: Call) -> Self:
        """The loss with what this call overrides."""
        return self

    def fit(self, pred: Tensor, target: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The target as the formula reads it, and the shape of ℓ.

        Called on the CPU, before anything reaches a device: whatever could
        raise there must be refused here.

        Raises:
            RefusedError: target does not fit pred.
        """
        if pred.shape != target.shape:
            raise RefusedError(
                "target", f"must be shaped like pred, {list(pred.shape)}", list(target.shape)
            )
        return target, tuple(pred.shape)

    def fit_weight(self, weight: Tensor, target: Tensor, rows: tuple[int, ...]) -> Tensor:
        """The weight, reshaped so that it broadcasts with ℓ, whose shape is `rows`."""
        return weight

    def aligned(self, pred: Tensor, target: Tensor) -> bool:
        """Whether pred and target have rows, and as many of them."""
        return pred.dim() > 0 and target.dim() > 0 and len(pred) == len(target)

    def own_avg_factor(self, target: Tensor, rows: tuple[int, ...]) -> float | None:
        """The divisor of a mean for which the call gives none; None is the number of elements."""
        return None

    def reach(self, zero: Tensor, pred: Tensor) -> Tensor:
        """Where no gradient reaches pred, from where the cotangent is zero (bool, ℓ's shape)."""
        own = zero.flatten(1).all(1) if zero.dim() > 1 else zero
        return own.view(-1, *[1] * (pred.dim() - 1))

    @cached_property
    def bare(self) -> Self:
        """The loss with all that the formula does not read set to its default."""
        defaults: dict[str, Any] = {f.name: f.default for f in fields(self)}
        return replace(self, **{name: defaults[name] for name in self.OUTSIDE})

    def rows(self, call: Call) -> Rows | None:
        """What the call adds to a batch; None if it must be computed alone.

        Raises:
            RefusedError: the inputs do not fit the loss.
        """
        pred, target, ends = self._ends(call)
        if not self.aligned(pred, target):
            return None
        return Rows(
            formula=self.for_call(call).bare,
            pred=pred,
            target=target,
            weight=call.inputs.get("weight"),
            cotangent=ends,
        )

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, target, ends = self._ends(call)
        return {"loss": ends.value(self.for_call(call).formula(pred, target))}

    def _ends(self, call: Call) -> tuple[Tensor, Tensor, Cotangent]:
        """Pred and target as the formula reads them, and all that comes after it."""
        loss = self.for_call(call)
        reduction = self.reduction
        if call.reduction_override is not None:
            reduction = call.reduction_override
            if reduction not in REDUCTIONS:
                raise RefusedError(
                    "reduction_override", f"must be one of {', '.join(REDUCTIONS)}", reduction
                )
        pred = tensor_of(call, "pred")
        if not pred.is_floating_point():
            raise RefusedError("pred", "must be floating point", name_of(pred.dtype))
        target, shape = loss.fit(pred, tensor_of(call, "target"))
        weight = None
        if call.inputs.get("weight") is not None:
            weight = loss.fit_weight(tensor_of(call, "weight"), target, shape)
        avg_factor = call.avg_factor
        if avg_factor is None and reduction == "mean":
            avg_factor = loss.own_avg_factor(target, shape)
        ends = cotangent(
            shape,
            weight=weight,
            reduction=reduction,
            avg_factor=avg_factor,
            loss_weight=self.loss_weight,
            upstream=call.grad_output.get("loss"),
        )
        return pred, target, ends


class Elementwise(RowwiseLoss):
    """A rowwise loss whose every element reads the same element of pred."""

    def reach(self, zero: Tensor, pred: Tensor) -> Tensor:
        return zero


def tensor_of(call: Call, name: str) -> Tensor:
    """The input of that name, which must be one tensor."""
    value = call.inputs.get(name)
    if isinstance(value, Tensor):
        return value
    raise RefusedError(
        name, "must be one tensor", "nothing" if value is None else type(value).__name__
    )


def name_of(dtype: torch.dtype) -> str:
    """A dtype as users write it: float32, not torch.float32."""
    return str(dtype).removeprefix("torch.")
