"""One device, and who computes on it: jobs in, settled futures out.

Large jobs, those computed alone, and all jobs of a device other than the CPU go
to the device's one thread; it waits on a batch queue, computes what is due and
hands the results back to the event loop, all of a batch in one wake-up.

Small jobs on the CPU are computed on the event loop itself. There a second
thread costs more than it gives: each of the sixty or so torch operations of a
small loss lets go of the interpreter's lock and waits for the loop to yield it
again. A lone small job is computed where it arrived; where company is in sight
it waits a moment for it (docs/decisions/0004).

A job whose caller is gone, or whose deadline has passed, is dropped before it
costs anything. If a batch raises, its jobs are computed one by one, so that
only the guilty one fails.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from lossserver.batch import BatchLimits, BatchQueue
from lossserver.compute import compute
from lossserver.job import Job, Result
from losswire.errors import DeadlineError

log = logging.getLogger("lossserver")

#: Elements of a job that the event loop computes itself. torch's own threshold for using several
#: threads (at::internal::GRAIN_SIZE), and about 0.4 ms of focal loss on one.
SMALL = 1 << 15

#: Small jobs, and elements of them, that are enough for a batch: nearly all that company saves is
#: saved by then, and the loop must get back to its messages.
MANY = 16
MANY_ELEMENTS = 4 * SMALL

#: Seconds without news after which a batch of small jobs goes: about what gRPC takes to hand over
#: the next call if one stands at the door. Seconds after which it goes in any case.
QUIET = 0.0003
ENOUGH = 0.005

#: Seconds after a batch of several for which more company is expected: callers who got their
#: answers together will soon ask together again.
BUSY = 0.02

#: Seconds for which a message is expected once its call was accepted: longer, and it is a large
#: one or a slow line, which is nobody else's reason to wait.
ABOUT_TO_COME = 0.001

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
        small = replace(limits, max_elements=min(MANY_ELEMENTS, limits.max_elements))
        self._small: BatchQueue[Job] = BatchQueue(small)
        self._waits = limits.max_wait > 0
        self._threads = 1
        self._look: asyncio.Handle | None = None
        # Some never come: the call was cancelled in between.
        self._coming: deque[float] = deque(maxlen=MANY)
        self._news = False
        self._busy_until = 0.0
        self._large: BatchQueue[Job] = BatchQueue(limits)
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"worker-{device}", daemon=True)

    def start(self) -> None:
        """Begin to compute. Called on the event loop, which from now on computes single-threaded."""
        self._threads = torch.get_num_threads()
        self._thread.start()
        # OpenMP keeps the number for each thread apart.
        torch.set_num_threads(1)

    def expect(self) -> None:
        """Note that a call was accepted, whose message is still to come."""
        self._coming.append(time.monotonic())
        self._news = True

    def arrived(self) -> None:
        """Note that the message of an accepted call has come."""
        if self._coming:
            self._coming.popleft()

    def put(self, job: Job) -> None:
        """Take a job, on the event loop, where its future is settled: now if it is small and alone."""
        if job.rows is None or job.elements > self._small_limit:
            with self._wake:
                self._large.put(job, job.arrived)
                self._wake.notify()
        elif self._look is None and not self._waits and not self._company(0, job.arrived):
            _settle(_computed([job], self.device))
        else:
            self._small.put(job, job.arrived)
            self._news = True
            # A look may be set for when the oldest has waited max_wait; this one may fill the batch.
            if self._look is None or self._waits:
                self._look_now()

    def drop(self, job: Job) -> None:
        """Forget a job whose caller has gone, if it still waits; it may hold much memory."""
        self._small.drop(job)
        with self._wake:
            self._large.drop(job)

    def hurry(self) -> None:
        """Let nothing wait for company any more, since none will come."""
        self._small.hurry()
        self._look_now()
        with self._wake:
            self._large.hurry()
            self._wake.notify()

    def stop(self) -> None:
        """Compute what waits, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        torch.set_num_threads(self._threads)

    def _look_now(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Compute a batch of small jobs if it is time, and look again while any wait.

        gRPC accepts one call at a time, however many stand at the door. So where
        a second waits, or was accepted and is about to come, or a moment ago
        there were many, the batch goes when there has been no news for a while.
        """
        self._look = None
        now = time.monotonic()
        due = self._small.due_at()
        if due is None:
            return
        if due > now:
            self._look = self._loop.call_later(due - now, self._gather)
        elif self._news and now - due < ENOUGH and self._company(len(self._small), now):
            self._news = False
            self._look = self._loop.call_later(QUIET, self._gather)
        else:
            self._look = self._loop.call_soon(self._gather)
            batch = self._small.take(now)
            _settle(_computed(batch, self.device))
            if len(batch) > 1:
                self._busy_until = time.monotonic() + BUSY

    def _company(self, waiting: int, now: float) -> bool:
        """Whether more small jobs are likely to come in a moment, and there is room for them."""
        while self._coming and now - self._coming[0] > ABOUT_TO_COME:
            self._coming.popleft()
        in_sight = waiting + len(self._coming)
        return in_sight < MANY and (in_sight > min(waiting, 1) or now < self._busy_until)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
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
