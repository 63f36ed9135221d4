"""Answers in memory that is there, written by the thread that has computed them.

A large job is computed slice by slice. A slice's gradient is copied to its place
while it is still in the processor's cache; a gradient as large as `pred` would be
written to memory that is not, and copied from there.
"""

import functools
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from torch import Tensor

from lossserver.answer import Asker, answer, aside, whole
from lossserver.job import Computed, Job, Result
from lossserver.pool import Pool
from lossserver.room import Room
from lossserver.slices import Slice, Slices, Total, can_be_cut, in_order
from lossserver.tree import map_tensors, zip_tensors
from lossserver.wishes import NO_WISHES
from losswire.frame import Parts

#: Bytes from which an answer is copied off the event loop: 0.3 ms, which is what a thread costs.
COPIED = 4 << 20

#: Bytes of a slice's largest input: more than a batch may have by default, so that a slice is one.
#: Smaller ones are put together, and so copied; or wait for all cores again and again, each of
#: which may have something else to do. The fastest of 1 to 128 MiB, busy machine or idle.
SLICE = 32 << 20


async def gathered(job: Job, pool: Pool, room: Room) -> Result:
    """The result of a job, its gradients in the room as far as they fit.

    Raises:
        Exception: what became of it.
    """
    if job.rows is None or job.wishes != NO_WISHES:
        # What is to be written in another type is not yet what belongs into the room.
        return await whole(job, pool)
    found = _Whole(len(job.rows.leaves[0]), room)
    slices = Slices(job, SLICE) if can_be_cut(job) else None
    if slices is None or slices.each >= slices.count:
        result = await whole(replace(job, landed=functools.partial(found.put, None)), pool)
        computed = result.computed
    else:
        total = Total()
        async with aclosing(in_order(_cut(slices, found), pool)) as each:
            async for done in each:
                total.add(done.result)
        result = total.result()
        computed = result.computed
    losses = {**computed.losses, **found.losses}
    return replace(result, computed=replace(computed, losses=losses, grads=found.grads))


async def _cut(slices: Slices, found: "_Whole") -> AsyncIterator[Slice]:
    """The slices, each of which goes to its place when it has been computed."""
    for start, stop in slices.ranges():
        one = slices.cut(start, stop)
        landed = functools.partial(found.put, slice(start, stop))
        yield one._replace(job=replace(one.job, landed=landed))


class _Whole:
    """What becomes of all rows.

    Attributes:
        losses: that are unreduced.
        grads: each a tree like its input.
    """

    def __init__(self, count: int, room: Room) -> None:
        self._count = count
        self._room = room
        self._lock = threading.Lock()
        self._begun = False
        self.losses: dict[str, Any] = {}
        self.grads: dict[str, Any] = {}

    def put(self, rows: slice | None, computed: Computed) -> Computed:
        """Copy what became of some rows, or all, to its place; the rest of it. In any thread."""
        grads = dict(computed.grads)
        losses = {name: loss for name, loss in computed.losses.items() if loss.dim()}
        with self._lock:
            if not self._begun:
                place = self._room.like if rows is None else self._place
                self.losses, self.grads = map_tensors(place, [losses, grads])
                self._begun = True
        zip_tensors(
            lambda all_rows, part: (all_rows if rows is None else all_rows[rows]).copy_(part),
            [self.losses, self.grads],
            [losses, grads],
        )
        return replace(computed, grads={})

    def _place(self, part: Tensor) -> Tensor:
        shape: Sequence[int] = (self._count, *part.shape[1:])
        return self._room.empty(shape, part.dtype)


async def answer_into(room: Room, parts: Parts, asker: Asker, pool: Pool) -> Parts:
    """The answer to a call, in its room as far as it fits.

    Raises:
        Exception: whatever came between, to be told by `told`.
    """
    reply = await answer(parts, asker, pool, functools.partial(gathered, room=room))
    place = functools.partial(room.placed, reply)
    return await aside(place, asker.place) if room.lacks(reply) >= COPIED else place()
