"""What travels through the pipeline: a decoded request, and what it becomes."""

import asyncio
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from lossserver.losses.loss import Call, Loss
from lossserver.losses.rows import Rows


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
        deadline: monotonic seconds after which nobody waits for it; None is never.
        arrived: monotonic seconds at which it was ready to compute.
        future: where its Result or its error goes.
    """

    name: str
    loss: Loss
    call: Call
    rows: Rows | None
    key: Hashable
    elements: int
    deadline: float | None
    arrived: float
    future: "asyncio.Future[Result]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed:
    """Outputs and gradients of one job, on the CPU.

    Attributes:
        losses: each named output; a tensor, or a tree of them.
        grads: for each name in wrt a tree like that input; None where no gradient reaches.
        state: of a loss that remembers.
        metrics: names of the outputs that are no loss.
    """

    losses: Mapping[str, Any]
    grads: Mapping[str, Any]
    state: Any = None
    metrics: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a job became, and how it got there.

    Attributes:
        computed: outputs and gradients.
        batch: jobs computed together with it, itself included.
        queue: seconds from ready to taken.
        compute: seconds the batch took.
    """

    computed: Computed
    batch: int
    queue: float
    compute: float
