"""A large job in slices: ranges of its rows, each computed as a job of its own.

    Slices      cuts a job into jobs
    in_order    has jobs computed, some at a time, and gives their results in order
    Total       adds up what became of the slices

What holds for a slice holds for any small job: it waits for its turn behind other
callers', shares a batch with those of its key, and is not computed once nobody
waits for it. All that comes after the formula is linear, so losses of slices
add up to that of the whole, and gradients stand one behind another.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lossserver.job import Computed, Job, Result
from lossserver.pool import Pool

#: Slices that are cut, being computed, or computed and not taken yet.
AHEAD = 4


class Slice(NamedTuple):
    """A range of rows, and the job of computing them."""

    start: int
    stop: int
    job: Job


class Done(NamedTuple):
    """A range of rows, and what became of them."""

    start: int
    stop: int
    result: Result


class Slices:
    """Cuts a job.

    Parameters:
        whole: a job with rows, for which `can_be_cut`.
        size: bytes of a slice's largest input.
        moving: the bytes of other slices are moved while one is computed.

    Attributes:
        count: its rows.
        each: rows of a slice.
    """

    def __init__(self, whole: Job, size: int, *, moving: bool = False) -> None:
        assert whole.rows is not None  # noqa: S101  (for mypy)
        self._whole = replace(whole, moving=moving)
        self._rows = whole.rows
        self.count = len(whole.rows.leaves[0])
        widest = max(leaf.nbytes for leaf in whole.rows.leaves)
        self.each = max(1, size * self.count // max(widest, 1))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Start and end of each slice."""
        for start in range(0, self.count, self.each):
            yield start, min(start + self.each, self.count)

    def cut(self, start: int, stop: int, pred: Tensor | None = None) -> Slice:
        """A range of the rows; `pred` are those of `pred` if they are not in the job."""
        whole, rows = self._whole, self._rows
        own = rows.part(start, stop)
        if pred is not None:
            own = replace(own, inputs={**own.inputs, "pred": pred})
        job = replace(
            whole,
            rows=own,
            elements=self._share(whole.elements, start, stop),
            bytes=self._share(whole.bytes, start, stop),
            arrived=time.monotonic(),
            future=asyncio.get_running_loop().create_future(),
        )
        return Slice(start, stop, job)

    def _share(self, size: int, start: int, stop: int) -> int:
        return -(-size * (stop - start) // self.count)


def can_be_cut(job: Job) -> bool:
    """Whether slices of a job add up to it: it is rows, and has no gradient that is a sum over them."""
    rows = job.rows
    if rows is None or "weight" in job.call.wrt:
        return False
    return (
        bool(rows.leaves)
        and rows.cotangent.shape[:1] == (len(rows.leaves[0]),)
        and (len(rows.cotangent.shape) == len(rows.shape))
    )


async def in_order(slices: AsyncIterator[Slice], pool: Pool) -> AsyncGenerator[Done]:
    """What becomes of slices, in order; the next are cut and computed meanwhile. To be closed.

    Raises:
        Exception: of the slices, or what became of the first that failed.
    """
    ahead = _Ahead(pool)
    feeding = asyncio.create_task(ahead.feed(slices))
    try:
        while (one := await ahead.next()) is not None:
            yield Done(one.start, one.stop, await one.job.future)
            del one  # it holds its rows
            ahead.taken()
        await feeding
    finally:
        feeding.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await feeding
        ahead.give_up()


class _Ahead:
    """The slices that are on their way through a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # One for each device to compute, and one more that it finds when it is done; a third would
        # be put together with that one, and copied for it.
        self._in_pool = asyncio.Semaphore(len(pool.devices) + 1)
        self._room = asyncio.Semaphore(max(AHEAD, len(pool.devices) + 2))
        self._order: asyncio.Queue[Slice | None] = asyncio.Queue()
        self._next: Slice | None = None

    async def feed(self, slices: AsyncIterator[Slice]) -> None:
        """Put slices into the pool as there is room."""
        try:
            async for one in slices:
                await self._room.acquire()
                await self._in_pool.acquire()
                one.job.future.add_done_callback(self._ended)
                self._pool.put(one.job)
                self._order.put_nowait(one)
                del one
        finally:
            self._order.put_nowait(None)

    async def next(self) -> Slice | None:
        """The next in order; None if there is no other."""
        self._next = await self._order.get()
        return self._next

    def taken(self) -> None:
        """Note that the last one's result is not needed any more."""
        self._next = None
        self._room.release()

    def give_up(self) -> None:
        """Let the pool forget those that are left."""
        left = [self._next, *(self._order.get_nowait() for _ in range(self._order.qsize()))]
        for one in left:
            if one is not None:
                self._pool.drop(one.job)
                one.job.future.cancel()

    def _ended(self, future: "asyncio.Future[Result]") -> None:
        self._in_pool.release()
        if not future.cancelled():
            future.exception()  # asyncio would log what nobody has waited for


class Total:
    """What became of a job, but for its gradients and unreduced loss, which go out slice by slice."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._dtype = torch.float32
        self._batch = 0
        self._queue: float | None = None
        self._seconds = 0.0
        self._fused = True

    def add(self, result: Result) -> None:
        """Count the result of one slice in."""
        loss: Tensor = result.computed.losses["loss"]
        if not loss.dim():
            self._loss = loss.double() if self._loss is None else self._loss + loss
            self._dtype = loss.dtype
        self._batch = max(self._batch, result.batch)
        self._queue = result.queue if self._queue is None else self._queue
        self._seconds += result.compute
        self._fused &= result.computed.fused

    def result(self) -> Result:
        """All of them together; `losses` is empty where the loss is unreduced."""
        losses = {} if self._loss is None else {"loss": self._loss.to(self._dtype)}
        return Result(
            computed=Computed(losses=losses, grads={}, fused=self._fused),
            batch=self._batch,
            queue=self._queue or 0.0,
            compute=self._seconds,
        )
