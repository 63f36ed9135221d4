"""Losses that are a formula over rows: MMDetection's five steps, and who may share a batch.

    sample → formula → weight → reduce → scale

    WeightedLoss   the five steps, computed alone: a row may read the others.
    RowwiseLoss    row i of the formula reads row i of its inputs and nothing
                   else, so calls of different callers are concatenated along
                   rows, computed once and split.
    Elementwise    and element j of row i reads element j of the prediction.
    Exact          beside one of these: a loss that is not MMDetection's, and has
                   no quirks of its pipeline.

Weight, reduce and scale are one linear step, the cotangent (cotangent.py).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from lossserver.losses.cotangent import Cotangent, broadcast
from lossserver.losses.loss import Call, ReducedLoss, floating, require, tensor_of
from lossserver.registry import RefusedError
from lossserver.tree import map_tensors, tensors


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The first step: what of a call the formula reads, and how much its rows count.

    Attributes:
        inputs: by name, as the formula reads them: tensors, or trees of them.
        shape: of ℓ.
        weight: broadcasts with ℓ; None is 1.
        avg_factor: the divisor of a mean for which the call gives none; None is the number of
            elements.
        divisor: the same without the loss's AVG_EPS.
    """

    inputs: Mapping[str, Any]
    shape: tuple[int, ...]
    weight: Tensor | None = None
    avg_factor: float | None = None
    divisor: float | None = None


@dataclass(frozen=True, kw_only=True)
class WeightedLoss(ReducedLoss):
    """A formula of a call's inputs, then weight, reduce and scale.

    Class attributes:
        ROWS: names of the inputs that the formula reads.
        TREES: names of those that may be a tree of tensors; the others must be one tensor.
    """

    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target")
    TREES: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def formula(self, *args: Any, **inputs: Any) -> Tensor:
        """ℓ [N, ...], unreduced, of the fitted inputs by name: formula(pred=..., target=...)."""

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The inputs by name, as the formula reads them, and the shape of ℓ.

        Called on the CPU, before anything reaches a device: whatever could
        raise there must be refused here. A floating-point tensor must be
        handed on as it is, since its gradient is the caller's.

        Raises:
            RefusedError: they do not fit together.
        """
        pred, target = inputs["pred"], inputs["target"]
        if pred.shape != target.shape:
            raise RefusedError(
                "target", f"must be shaped like pred, {list(pred.shape)}", list(target.shape)
            )
        return inputs, tuple(pred.shape)

    def for_call(self, call: Call) -> Self:
        """The loss with what this call overrides."""
        return self

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        """The weight, reshaped so that it broadcasts with ℓ, whose shape is `shape`."""
        return weight

    def own_avg_factor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        """The divisor of a mean for which the call gives none; None is the number of elements."""
        return None

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        """The same without AVG_EPS."""
        return None

    def sample(self, call: Call) -> Sample:
        """What of the call the formula reads, and how much its rows count.

        Raises:
            RefusedError: the inputs do not fit the loss.
        """
        given = {
            name: call.inputs[name] if name in self.TREES else tensor_of(call, name)
            for name in self.ROWS
            if call.inputs.get(name) is not None
        }
        if isinstance(given.get("pred"), Tensor):
            floating(given["pred"], "pred")
        inputs, shape = self.fit(**given)
        weight = None
        if call.inputs.get("weight") is not None:
            weight = self.fit_weight(tensor_of(call, "weight"), inputs, shape)
        return Sample(
            inputs=inputs,
            shape=shape,
            weight=weight,
            avg_factor=self.own_avg_factor(inputs, shape),
            divisor=self.own_divisor(inputs, shape),
        )

    def outputs(self, call: Call) -> dict[str, Tensor]:
        loss, sample, ends = self._start(call)
        return {"loss": ends.value(loss.formula(**sample.inputs))}

    def check(self, call: Call) -> None:
        self._start(call)

    def _start(self, call: Call) -> tuple[Self, Sample, Cotangent]:
        """The loss for this call, what its formula reads, and all that comes after the formula."""
        loss = self.for_call(call)
        sample = loss.sample(call)
        ends = loss.ends(
            call,
            sample.shape,
            weight=sample.weight,
            avg_factor=sample.avg_factor,
            divisor=sample.divisor,
        )
        return loss, sample, ends


class Exact(WeightedLoss):
    """A loss that divides by avg_factor itself, and whose weight makes no [N, N] of rows [N]."""

    AVG_EPS: ClassVar[float] = 0.0

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        fits = broadcast("weight", weight, shape, "the loss") == shape
        rule = f"must not broadcast the loss, which is {list(shape)}, to another shape"
        require(fits, "weight", rule, list(weight.shape))
        return weight


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What one call adds to a batch.

    Attributes:
        formula: the loss, bare. Calls with equal formulas are computed together.
        inputs: what the formula reads, by name; tensors [N, ...], or trees of them.
        shape: of ℓ.
        weight: as it was sent; None if it was not.
        cotangent: how the call's rows become its loss.
    """

    formula: "RowwiseLoss"
    inputs: Mapping[str, Any]
    shape: tuple[int, ...]
    weight: Tensor | None
    cotangent: Cotangent

    @cached_property
    def leaves(self) -> list[Tensor]:
        """The tensors of all inputs, in order."""
        return tensors(self.inputs)

    def part(self, start: int, stop: int) -> "Rows":
        """A range of them. Not of rows whose weight's gradient is wanted."""
        return Rows(
            formula=self.formula,
            inputs=map_tensors(lambda leaf: leaf[start:stop], self.inputs),
            shape=(stop - start, *self.shape[1:]),
            weight=None,
            cotangent=self.cotangent.part(start, stop),
        )


@dataclass(frozen=True, kw_only=True)
class RowwiseLoss(WeightedLoss):
    """A loss whose row i depends on row i of its inputs, and on nothing else."""

    #: Parameters that do not change the formula, and so do not keep two calls apart.
    OUTSIDE: ClassVar[frozenset[str]] = frozenset({"reduction", "loss_weight"})

    @property
    def checks_pred(self) -> bool:
        """Whether values of pred are checked, and not its shape alone: then it must not change."""
        return bool(getattr(self, "activated", False))

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        """Whether all inputs have rows, and as many of them."""
        sizes = {len(leaf) if leaf.dim() else None for leaf in tensors(inputs)}
        return len(sizes) == 1 and None not in sizes

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        """Where no gradient reaches an input, from where the cotangent is zero (bool, ℓ's shape)."""
        own = zero.flatten(1).all(1) if zero.dim() > 1 else zero
        return own.view(-1, *[1] * (leaf.dim() - 1))

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
        loss, sample, ends = self._start(call)
        if not self.aligned(sample.inputs) or not call.wrt <= {"weight", *sample.inputs}:
            return None
        return Rows(
            formula=loss.bare,
            inputs=sample.inputs,
            shape=sample.shape,
            weight=call.inputs.get("weight"),
            cotangent=ends,
        )


class Elementwise(RowwiseLoss):
    """A rowwise loss whose every element reads the same element of pred."""

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero if zero.shape == leaf.shape else super().reach(zero, leaf)
