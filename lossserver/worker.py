"""One device, and who computes on it: jobs in, settled futures out.

Large jobs, and all jobs of a device other than the CPU, go to the device's one
thread; it waits on a batch queue, computes what is due and hands the results
back to the event loop, all of a batch in one wake-up.

Small jobs on the CPU are computed on the event loop itself. There a second
thread costs more than it gives: each of the forty or so torch operations of a
small loss lets go of the interpreter's lock and waits for the loop to yield it
again. Batching is natural there too: whatever the loop decoded before it got
round to computing goes together.

A job whose caller is gone, or whose deadline has passed, is dropped before it
costs anything. If a batch raises, its jobs are computed one by one, so that
only the guilty one fails.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from lossserver.batch import BatchLimits, BatchQueue
from lossserver.compute import compute
from lossserver.job import Job, Result
from losswire.errors import DeadlineError

log = logging.getLogger("lossserver")

#: Elements of a batch that the event loop computes itself: below torch's own threshold for using
#: several threads (at::internal::GRAIN_SIZE, 32768), and about half a millisecond of focal loss.
SMALL = 1 << 15

Outcome = Result | Exception
Settled = list[tuple[Job, Outcome]]


class Worker:
    """The owner of one device.

    Parameters:
        device: where it computes.
        limits: when a batch is full, and how long a job waits for company.
        loop: the event loop whose futures it settles.
    """

    def __init__(
        self, device: torch.device, limits: BatchLimits, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.device = device
        self._loop = loop
        self._small_limit = min(SMALL, limits.max_elements) if device.type == "cpu" else 0
        small = replace(limits, max_elements=max(1, self._small_limit))
        self._small: BatchQueue[Job] = BatchQueue(small)
        self._timer: asyncio.TimerHandle | None = None
        self._large: BatchQueue[Job] = BatchQueue(limits)
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"worker-{device}", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Take a job, on the event loop, where its future is settled later."""
        if job.elements <= self._small_limit:
            self._small.put(job, job.arrived)
            if self._timer is None:
                self._schedule()
            return
        with self._wake:
            self._large.put(job, job.arrived)
            self._wake.notify()

    def stop(self) -> None:
        """Compute what waits, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _schedule(self) -> None:
        due = self._small.due_at()
        delay = 0.0 if due is None else max(0.0, due - time.monotonic())
        self._timer = None if due is None else self._loop.call_later(delay, self._run_small)

    def _run_small(self) -> None:
        """One batch of small jobs; then the loop's other work, then the next."""
        _settle(_computed(self._small.take(time.monotonic()), self.device))
        self._schedule()

    def _run(self) -> None:
        while batch := self._next():
            self._loop.call_soon_threadsafe(_settle, _computed(batch, self.device))

    def _next(self) -> list[Job]:
        """The next batch; waits for one. Empty when the worker is to stop and nothing waits."""
        with self._wake:
            while True:
                now = time.monotonic()
                if batch := self._large.take(now):
                    return batch
                due = self._large.due_at()
                if due is None and self._stopping:
                    return []
                self._wake.wait(None if due is None else due - now)


def _computed(batch: list[Job], device: torch.device) -> Settled:
    """What became of each job of a batch."""
    taken = time.monotonic()
    settled: Settled = []
    going = []
    for job in batch:
        if job.deadline is not None and job.deadline <= taken:
            late = f"{taken - job.arrived:.3f} s in the queue"
            settled.append((job, DeadlineError("the deadline passed in the queue", given=late)))
        elif not job.future.done():
            going.append(job)
    return settled + (_results(going, device, taken) if going else [])


def _results(batch: Sequence[Job], device: torch.device, taken: float) -> Settled:
    started = time.perf_counter()
    try:
        computed = compute(batch, device)
    except Exception as error:  # noqa: BLE001  (whatever it is, it must reach its caller)
        if len(batch) == 1:
            return [(batch[0], error)]
        log.warning("batch of %d raised %r; computing one by one", len(batch), error)
        return [one for job in batch for one in _results([job], device, taken)]
    seconds = time.perf_counter() - started
    return [
        (
            job,
            Result(computed=own, batch=len(batch), queue=taken - job.arrived, compute=seconds),
        )
        for job, own in zip(batch, computed, strict=True)
    ]


def _settle(settled: Settled) -> None:
    for job, outcome in settled:
        if job.future.done():
            continue  # its caller gave up meanwhile
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
