"""One device and the thread that owns it: batches in, settled futures out.

The thread waits for a batch, computes it, and hands the outcomes back to the
event loop, each part of a batch in one wake-up. A device that copies and
computes at once has the next batch before this one's results are waited for, if
one is due. Whatever happens to it, every
job it held ends in an outcome or back in its source's hands.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from lossserver.device import settle_in
from lossserver.isolate import Isolation, Settled, as_outcome, settle
from lossserver.job import Job
from lossserver.staging import staging


class Batch(NamedTuple):
    """Jobs to compute together; for the last time, if a worker has died of them already."""

    jobs: Sequence[Job]
    last: bool = False


class Source(Protocol):
    """Where workers get their batches, and who hears of their end."""

    def next(self, worker: "Worker", *, wait: bool = True) -> Batch | None:
        """The next batch; None if the worker is to end, or there is none and it does not wait."""

    def ended(
        self,
        worker: "Worker",
        why: BaseException | None = None,
        unanswered: Sequence[Sequence[Job]] = (),
    ) -> None:
        """The worker computes no more: it was to end, or died of `why` with batches in its hands."""


class Worker:
    """The owner of one device.

    Parameters:
        device: where it computes.
        isolation: how it computes a batch there.
        source: where its batches come from.
        loop: the event loop whose futures it settles.
        threads: CPU threads of one computation.
    """

    def __init__(
        self,
        device: torch.device,
        isolation: Isolation,
        source: Source,
        loop: asyncio.AbstractEventLoop,
        threads: int,
    ) -> None:
        self.device = device
        self._isolation = isolation
        self._source = source
        self._loop = loop
        self._threads = threads
        self._thread = threading.Thread(target=self._run, name=f"worker-{device}", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, or for so many seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        try:
            # OpenMP keeps the number for each thread apart.
            settle_in(self.device, self._threads)
            self._way = staging(self.device)
            # A batch is not held here while the next is waited for: it may be large.
            while self._one():
                pass
        except _DiedError as death:
            self._source.ended(self, death.__cause__, death.unanswered)
        except BaseException as why:  # noqa: BLE001  (whoever waits must hear of it)
            self._source.ended(self, why)
        else:
            self._source.ended(self)

    def _one(self) -> bool:
        """Compute the next batch; whether there was one."""
        batch = self._source.next(self)
        if batch is None:
            return False
        if self._way.overlaps and not batch.last:
            begun = deque([_Begun(jobs=batch.jobs)])
            del batch  # others may follow for long
            self._overlap(begun)
        else:
            self._compute(batch)
        return True

    def _overlap(self, begun: "deque[_Begun]") -> None:
        """Finish a batch, and each that is due meanwhile, begun before the one before it is finished."""
        try:
            self._begin(begun[0])
            while begun:
                alone = len(begun) == 1 and begun[0].finish is not None
                if alone and (another := self._source.next(self, wait=False)):
                    begun.append(_Begun(jobs=another.jobs))
                    self._begin(begun[-1])
                else:
                    self._finish(begun.popleft())
        except _DiedError as death:
            death.unanswered += [one.jobs for one in begun]
            raise
        except BaseException as error:
            raise _DiedError([one.jobs for one in begun]) from error

    def _begin(self, begun: "_Begun") -> None:
        late, begun.jobs = self._isolation.weed(begun.jobs)
        self._settle(late)
        # What is raised here or in finishing is raised again when the batch is computed by itself.
        with contextlib.suppress(BaseException):
            begun.finish = self._isolation.begin(begun.jobs, self._way) if begun.jobs else None

    def _finish(self, begun: "_Begun") -> None:
        settled: Settled = []
        with contextlib.suppress(BaseException):
            settled = begun.finish() if begun.finish is not None else []
        begun.finish = None  # which may hold much of the device's memory
        if settled:
            self._settle(settled)
        else:
            self._compute(Batch(begun.jobs))

    def _compute(self, batch: Batch) -> None:
        """Compute a batch, and wait for it."""
        unanswered = list(batch.jobs)
        try:
            for settled in self._isolation.pieces(batch.jobs, last=batch.last):
                self._settle(settled)
                answered = {job for job, _ in settled}
                unanswered = [job for job in unanswered if job not in answered]
        except BaseException as error:
            if not batch.last:
                raise _DiedError([unanswered] if unanswered else []) from error
            self._settle([(job, as_outcome(error)) for job in unanswered])

    def _settle(self, settled: Settled) -> None:
        # The loop is closed once a server does not wait for its threads any longer.
        if settled and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle, settled)


class _DiedError(Exception):
    """The worker died of its cause, and these batches have no answer."""

    def __init__(self, unanswered: Sequence[Sequence[Job]]) -> None:
        super().__init__()
        self.unanswered = [*unanswered]


@dataclass(kw_only=True, eq=False)
class _Begun:
    """Jobs that a device was told to compute, and what waits for their results; None if that raised."""

    jobs: Sequence[Job]
    finish: Callable[[], Settled] | None = None
