"""One device and the one thread that computes on it: jobs in, settled futures out.

The thread waits on the batch queue, computes what is due and hands the results
back to the event loop, all of a batch in one wake-up. A job whose caller is
gone, or whose deadline has passed, is dropped before it costs anything. If a
batch raises, its jobs are computed one by one, so that only the guilty one fails.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import torch

from lossserver.batch import BatchLimits, BatchQueue
from lossserver.compute import compute
from lossserver.job import Job, Result
from losswire.errors import DeadlineError

log = logging.getLogger("lossserver")

Outcome = Result | Exception


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
        self._queue: BatchQueue[Job] = BatchQueue(limits)
        self._loop = loop
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"worker-{device}", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Take a job; its future is settled on the event loop."""
        with self._wake:
            self._queue.put(job, job.arrived)
            self._wake.notify()

    def stop(self) -> None:
        """Compute what waits, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            settled = self._compute(batch)
            self._loop.call_soon_threadsafe(_settle, settled)

    def _next(self) -> list[Job]:
        """The next batch; waits for one. Empty when the worker is to stop and nothing waits."""
        with self._wake:
            while True:
                now = time.monotonic()
                if batch := self._queue.take(now):
                    return batch
                due = self._queue.due_at()
                if due is None and self._stopping:
                    return []
                self._wake.wait(None if due is None else due - now)

    def _compute(self, batch: list[Job]) -> list[tuple[Job, Outcome]]:
        taken = time.monotonic()
        settled: list[tuple[Job, Outcome]] = []
        going = []
        for job in batch:
            if job.deadline is not None and job.deadline <= taken:
                late = f"{taken - job.arrived:.3f} s in the queue"
                settled.append((job, DeadlineError("the deadline passed in the queue", given=late)))
            elif not job.future.done():
                going.append(job)
        return settled + self._results(going, taken)

    def _results(self, batch: Sequence[Job], taken: float) -> list[tuple[Job, Outcome]]:
        if not batch:
            return []
        started = time.perf_counter()
        try:
            computed = compute(batch, self.device)
        except Exception as error:  # noqa: BLE001  (whatever it is, it must reach its caller)
            if len(batch) == 1:
                return [(batch[0], error)]
            log.warning("batch of %d raised %r; computing one by one", len(batch), error)
            return [one for job in batch for one in self._results([job], taken)]
        seconds = time.perf_counter() - started
        return [
            (
                job,
                Result(computed=own, batch=len(batch), queue=taken - job.arrived, compute=seconds),
            )
            for job, own in zip(batch, computed, strict=True)
        ]


def _settle(settled: list[tuple[Job, Outcome]]) -> None:
    for job, outcome in settled:
        if job.future.done():
            continue  # its caller gave up meanwhile
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
