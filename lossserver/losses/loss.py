"""What every loss says of itself, and what a call brings to it.

    Loss              computed alone, by autograd through everything. The default.
    ReducedLoss       has MMDetection's `reduction` and `loss_weight`.

remember.py has those that take a state and return the next one;
rows.py the losses that are a formula over rows, and those that share a batch.
tests/losses/test_contract.py holds every registered loss to what it promises.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.losses.allowance import with_others
from lossserver.losses.cotangent import EPS, REDUCTIONS, Cotangent, cotangent
from lossserver.registry import RefusedError

#: Pairs (or larger tuples) that a loss which compares everything with everything may look at: 256
#: MiB of float32, a batch of 8,192. A quadratic loss must not be asked for memory that was not sent.
MAX_PAIRS = 1 << 26

_NUMBERS = count()

ONE_OF_THEM = f"must be one of {', '.join(REDUCTIONS)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What one call brings: its inputs, and how it wants them reduced.

    Attributes:
        inputs: by name; tensors on the CPU, trees of tensors, or plain values.
        wrt: names of the inputs whose gradients are wanted.
        reduction_override: replaces the loss's own reduction.
        avg_factor: divisor of a mean.
        grad_output: upstream gradient by name of output, a tree like it; absent is ones.
        state: what a loss that remembers returned last; None at the first call.
    """

    inputs: Mapping[str, Any]
    wrt: frozenset[str] = frozenset()
    reduction_override: str | None = None
    avg_factor: float | None = None
    grad_output: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss, built from a config; computed alone.

    Class attributes:
        NEEDS: names of the inputs a call must carry.
        TAKES: names of the inputs it may carry besides.
        OPTIONS: which of avg_factor and reduction_override it may carry.
        OUTPUTS: names of its outputs.
        METRICS: names of those that are no loss: counts and the like, without gradient.
        REMEMBERS: it takes a state and returns the next one.
        UNREAD: parameters that a config may have and that are not read.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target"})
    TAKES: ClassVar[frozenset[str]] = frozenset()
    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss"})
    METRICS: ClassVar[frozenset[str]] = frozenset()
    UNREAD: ClassVar[frozenset[str]] = frozenset()
    REMEMBERS: ClassVar[bool] = False

    @cached_property
    def number(self) -> int:
        """What no other loss of this process has had, unlike `id`."""
        return next(_NUMBERS)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the inputs it must have, where a parameter chooses among them."""
        return self.NEEDS

    @property
    def takes(self) -> frozenset[str]:
        """Names of the inputs it may have besides, where a parameter chooses among them."""
        return self.TAKES

    @abstractmethod
    def check(self, call: Call) -> None:
        """Refuse a call that does not fit the loss.

        Called on the CPU, before anything reaches a device: whatever could
        raise there, or ask for far more memory than was sent, must be refused
        here.

        Raises:
            RefusedError: the inputs do not fit.
        """

    @abstractmethod
    def outputs(self, call: Call) -> dict[str, Any]:
        """The named outputs of a checked call, differentiable in its inputs; tensors, or lists of them."""

    def step(self, call: Call) -> tuple[dict[str, Any], Any]:
        """The outputs, and the next state: a dict of tensors, or None if it does not remember."""
        return self.outputs(call), None

    @property
    def names(self) -> frozenset[str]:
        """Names of the outputs, where a parameter chooses among them."""
        return self.OUTPUTS

    @property
    def metrics(self) -> frozenset[str]:
        """Names of the outputs that are no loss, where a parameter chooses among them."""
        return self.METRICS

    @property
    def remembers(self) -> bool:
        """Whether it takes a state, where that depends on a parameter."""
        return self.REMEMBERS

    @property
    def slow(self) -> bool:
        """Whether `check` may take long even for a small message, and must hold up nobody else."""
        return False


@dataclass(frozen=True, kw_only=True)
class ReducedLoss(Loss):
    """A loss of rows that are weighted, reduced and scaled as MMDetection does it.

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result, also of an unreduced one.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight"})
    OPTIONS: ClassVar[frozenset[str]] = frozenset({"avg_factor", "reduction_override"})
    #: What is added to an avg_factor.
    AVG_EPS: ClassVar[float] = EPS

    reduction: str = "mean"
    loss_weight: float = 1.0

    def __post_init__(self) -> None:
        # "elementwise_mean" is an old name of "mean" that upstream still takes, but not with
        # avg_factor and not as an override.
        known = (*REDUCTIONS, "elementwise_mean")
        require(self.reduction in known, "reduction", ONE_OF_THEM, self.reduction)

    def reduction_of(self, call: Call) -> str:
        """The call's reduction, or else the loss's own."""
        given = call.reduction_override
        if given is None:
            return self.reduction
        require(given in REDUCTIONS, "reduction_override", ONE_OF_THEM, given)
        return given

    def ends(
        self,
        call: Call,
        shape: tuple[int, ...],
        *,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        divisor: float | None = None,
        output: str = "loss",
    ) -> Cotangent:
        """Weight, reduce and scale, for rows ℓ of that shape.

        Parameters:
            call: whose avg_factor and reduction win over the loss's own.
            shape: of ℓ.
            weight: broadcasts with ℓ.
            avg_factor: divisor of a mean for which the call gives none; None is the number of
                elements.
            divisor: the same without AVG_EPS.
            output: the name of this output, whose upstream gradient the call may bring.
        """
        reduction = self.reduction_of(call)
        if call.avg_factor is not None:
            avg_factor = call.avg_factor
        elif reduction != "mean":
            avg_factor = None
        upstream = call.grad_output.get(output)
        if upstream is not None and not isinstance(upstream, Tensor):
            raise RefusedError("grad_output", "must be one tensor", type(upstream).__name__)
        return cotangent(
            shape,
            weight=weight,
            reduction=reduction,
            avg_factor=avg_factor,
            loss_weight=self.loss_weight,
            upstream=upstream,
            divisor=divisor,
            eps=self.AVG_EPS,
        )


def check_names(loss: Loss, call: Call, name: str) -> None:
    """Refuse a call that carries what the loss, of that name, has no place for, or lacks what it needs.

    Raises:
        RefusedError: an input, output, option or state.
    """
    known = loss.needs | loss.takes
    for unknown in sorted(call.inputs.keys() - known):
        if unknown in ("avg_factor", "reduction_override"):
            raise RefusedError(unknown, "a map of them by part goes with a Sum", f"one for {name}")
        raise RefusedError("inputs", f"{name} takes the inputs {', '.join(sorted(known))}", unknown)
    for needed in sorted(loss.needs - call.inputs.keys()):
        raise RefusedError(needed, f"{name} needs this input", "nothing")
    for option in ("avg_factor", "reduction_override"):
        if option not in loss.OPTIONS and (given := getattr(call, option)) is not None:
            raise RefusedError(option, f"{name} has no such option", given)
    for unknown in sorted(call.grad_output.keys() - loss.names):
        rule = f"the outputs of {name} are {', '.join(sorted(loss.names))}"
        raise RefusedError(f"grad_output.{unknown}", rule, unknown)
    if call.state is not None and not loss.remembers:
        raise RefusedError("state", f"{name} does not remember", "a state")


def tensor_of(call: Call, name: str) -> Tensor:
    """The input of that name, which must be one tensor."""
    value = call.inputs.get(name)
    if isinstance(value, Tensor):
        return value
    given = "nothing" if value is None else type(value).__name__
    raise RefusedError(name, "must be one tensor", given)


def floating(tensor: Tensor, name: str) -> Tensor:
    """The tensor, which must be floating point."""
    if tensor.is_floating_point():
        return tensor
    raise RefusedError(name, "must be floating point", name_of(tensor.dtype))


def require(holds: bool, field: str, rule: str, given: object) -> None:
    """Refuse what was given for the field unless its rule holds."""
    if not holds:
        raise RefusedError(field, rule, given)


def refuse_pairs(count: int, of: str) -> None:
    """Refuse to compare so many pairs, `of` saying what they are pairs of."""
    count = with_others(count, "pairs")
    rule = f"must not make over {MAX_PAIRS} pairs of {of}; send fewer rows"
    require(count <= MAX_PAIRS, "pred", rule, count)


def name_of(dtype: torch.dtype) -> str:
    """A dtype as users write it: float32, not torch.float32."""
    return str(dtype).removeprefix("torch.")
