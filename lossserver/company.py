"""The jobs of a batch of rows as their callers sent them, and what is made of that on the host.

Nothing here touches a device. Everybody's weight and divisor become two columns
beside everybody's inputs, so that they travel with them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lossserver.fuse import Form
from lossserver.job import Job
from lossserver.losses.cotangent import Cotangent
from lossserver.losses.rows import Rows
from lossserver.tree import precision, tensors, zip_tensors

#: 0: none; 1: one a row; 2: one an element.
Weighs = Literal[0, 1, 2]

#: What every dtype that is computed in can hold.
_LARGE = 3e38


@dataclass(frozen=True, kw_only=True, eq=False)
class Company:
    """Jobs of one key, all of them with rows.

    Attributes:
        jobs: what they were asked for.
        rows: what each adds to the batch.
        sizes: how many rows that are.
        ends: how each one's rows become its losses.
        names: inputs whose gradients are wanted, sorted.
        wanted: the first caller's part of each tensor whose gradient is wanted.
        dtype: what to compute in.
        form: what a kernel must answer: sums if everybody's loss is reduced and nothing else is
            asked of ℓ.
        weighs: in sums, how many numbers somebody's weight has a row: none, one, or one an element.
    """

    jobs: Sequence[Job]
    rows: list[Rows]
    sizes: list[int]
    ends: list[Cotangent]
    names: list[str]
    wanted: list[Tensor]
    dtype: torch.dtype
    form: Form
    weighs: Weighs

    @property
    def columns(self) -> list[tuple[Tensor, ...]]:
        """Everybody's part of each tensor of the inputs."""
        return list(zip(*(one.leaves for one in self.rows), strict=True))

    @property
    def places(self) -> dict[str, Any]:
        """For each of the names a tree like that input: which of `wanted` is there, None for all else."""
        number = {id(leaf): index for index, leaf in enumerate(self.wanted)}
        given = self.rows[0].inputs
        return {
            name: zip_tensors(lambda leaf, _: number.get(id(leaf)), given[name], given[name])
            for name in self.names
        }

    @property
    def calls(self) -> int:
        """How many calls the jobs are."""
        return sum(job.many for job in self.jobs)

    @property
    def singly(self) -> "Company":
        """The same, with each call by itself."""
        if self.calls == len(self.jobs):
            return self
        rows = [one for pair in zip(self.jobs, self.rows, strict=True) for one in _apart(*pair)]
        return replace(
            self,
            jobs=[job for job in self.jobs for _ in range(job.many)],
            rows=rows,
            sizes=[one.leaves[0].shape[0] for one in rows],
            ends=[one.cotangent for one in rows],
        )

    def key(self, device: torch.device) -> Hashable:
        """What must be equal for a kernel to compute them."""
        return self.jobs[0].key, self.form, self.weighs, device


def company(jobs: Sequence[Job]) -> Company:
    """The company that the jobs are."""
    rows = [job.rows for job in jobs if job.rows is not None]
    call, inputs = jobs[0].call, rows[0].inputs
    names = sorted(call.wrt & inputs.keys())
    sums = "weight" not in call.wrt and all(map(sums_up, rows))
    return Company(
        jobs=jobs,
        rows=rows,
        sizes=[one.leaves[0].shape[0] for one in rows],
        ends=[one.cotangent for one in rows],
        names=names,
        wanted=[t for name in names for t in tensors(inputs[name]) if t.is_floating_point()],
        dtype=precision(call.inputs),
        form="sums" if sums else "rows",
        weighs=max(map(_weighs, rows)) if sums else 0,
    )


def _apart(job: Job, rows: Rows) -> list[Rows]:
    """The rows of each of its calls."""
    if job.many == 1:
        return [rows]
    each = rows.shape[0] // job.many
    return [rows.part(at, at + each) for at in range(0, rows.shape[0], each)]


def sums_up(one: Rows) -> bool:
    """Whether one number is wanted, and the weight, if any, is one a row or one an element."""
    end = one.cotangent
    if not end.reduced or end.shape != one.shape:
        return False
    return end.weight is None or end.weight.shape in (one.shape, column(one.shape))


def _weighs(one: Rows) -> Weighs:
    weight = one.cotangent.weight
    if weight is None:
        return 0
    return 1 if weight.shape == column(one.shape) else 2


def column(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one number a row, which broadcasts with this."""
    return (shape[0], *[1] * (len(shape) - 1))


def weights(own: Company) -> list[Tensor]:
    """Everybody's weight, a column if nobody has one an element."""
    one = torch.ones((), dtype=own.dtype)
    return [
        (one if end.weight is None else end.weight).expand(
            rows.shape if own.weighs == 2 else column(rows.shape)
        )
        for end, rows in zip(own.ends, own.rows, strict=True)
    ]


def scales(own: Company) -> Tensor:
    """Everybody's loss_weight / divisor · upstream, one a row."""
    each = [end.scale * (1.0 if end.upstream is None else float(end.upstream)) for end in own.ends]
    if len(each) == 1 and abs(each[0]) < _LARGE:  # torch refuses what numpy makes infinite
        return torch.full(column(own.rows[0].shape), each[0], dtype=own.dtype)
    # By numpy: torch's own, however few there are, wakes all of its threads.
    repeated = np.repeat(np.array(each), own.sizes)
    return torch.from_numpy(repeated).to(own.dtype).view(-1, *column(own.rows[0].shape)[1:])


def divisors(own: Company) -> Tensor:
    """The loss_weight / divisor of everybody's calls."""
    each = [end.scale for end in own.ends]
    return torch.from_numpy(np.repeat(np.array(each), [job.many for job in own.jobs]))


def lengths(own: Company) -> Tensor:
    """How many rows everybody's calls have."""
    each = [size // job.many for size, job in zip(own.sizes, own.jobs, strict=True)]
    return torch.from_numpy(np.repeat(np.array(each), [job.many for job in own.jobs]))
