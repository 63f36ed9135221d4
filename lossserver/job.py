"""What travels through the pipeline: a decoded request, and what it becomes."""

import asyncio
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.loss import Call, Loss
from lossserver.losses.rows import Rows
from lossserver.tree import tensors
from lossserver.wishes import NO_WISHES, Wishes


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One decoded and checked request.

    Attributes:
        name: the loss's name in the registry, for the log.
        loss: what to compute.
        call: its inputs and options.
        rows: what it adds to a batch; None if it is computed alone.
        key: jobs of equal keys may be computed together.
        elements: elements of all its inputs, the measure of its size.
        bytes: bytes that computing it is expected to take at most.
        tenant: who asks: the name a caller proved, else where the call came from.
        priority: 0 goes before 1, the usual, and that before 2.
        deadline: monotonic seconds after which nobody waits for it; None is never.
        arrived: monotonic seconds at which it was ready to compute.
        future: where its Result or its error goes.
        moving: bytes of its caller are moved while it is computed, which takes threads, too; half of
            them are left to it.
        wishes: how the answer is to be written. Jobs of unequal ones are computed together all the
            same.
        landed: what is made of it by the thread that has computed it.
        many: calls of one caller that it is: reduced ones of equal shapes and scales, the rows of
            which follow one another. A call itself is the first of them.
    """

    name: str
    loss: Loss
    call: Call
    rows: Rows | None
    key: Hashable
    elements: int
    bytes: int = 0
    tenant: str = ""
    priority: int = 1
    deadline: float | None
    arrived: float
    future: "asyncio.Future[Result]"
    moving: bool = False
    wishes: Wishes = NO_WISHES
    landed: "Callable[[Computed], Computed] | None" = None
    many: int = 1

    @cached_property
    def pace(self) -> Hashable:
        """Jobs of equal paces take equally long an element: of those computed alone, equal shapes."""
        if self.rows is not None:
            return self.key
        shapes = tuple(tensor.shape for tensor in tensors(dict(self.call.inputs)))
        # One config makes one loss for as long as decode remembers it.
        return self.name, self.loss.number, self.call.wrt, shapes


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed:
    """Outputs and gradients of one job, on the CPU.

    Attributes:
        losses: each named output; a tensor, or a tree of them. Of a job of many calls a tensor
            [many].
        grads: for each name in wrt a tree like that input; None where no gradient reaches. In that
            input's dtype, or what its caller wishes.
        state: of a loss that remembers.
        metrics: names of the outputs that are no loss.
        fused: a fused kernel computed it.
    """

    losses: Mapping[str, Any]
    grads: Mapping[str, Any]
    state: Any = None
    metrics: frozenset[str] = frozenset()
    fused: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a job became, and how it got there.

    Attributes:
        computed: outputs and gradients.
        batch: calls computed together with it, itself included.
        queue: seconds from ready to taken.
        compute: seconds the batch took.
    """

    computed: Computed
    batch: int
    queue: float
    compute: float


def key_of(rows: Rows, wrt: frozenset[str], dtype: torch.dtype) -> Hashable:
    """What must be equal for rows to be computed together, in that precision."""
    return _key(rows.formula, _layout(rows.inputs), wrt, dtype)


@functools.lru_cache(maxsize=4096)
def _key(*_: Hashable) -> Hashable:
    """One object for all that is equal: a formula has many parameters to hash and compare."""
    return object()


def _layout(tree: Any) -> Any:
    """What must be equal, besides the formula, for rows to be concatenated."""
    if isinstance(tree, Tensor):
        return tree.dtype, tree.shape[1:]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return tuple((key, _layout(value)) for key, value in items)
