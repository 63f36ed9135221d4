"""All devices of a server, and who computes what: jobs in, settled futures out.

    small, on the CPU      on the event loop itself (onloop.py); of those computed alone,
                           such as are known to be brief
    all others             in one queue; whichever device is free takes what is due
    whose worker died      on the CPU, one last time

Two devices share a queue, so the least loaded is served first by itself.

A job whose caller is gone, or whose deadline has passed or cannot be met, is
dropped before it costs anything.

A device that is lost stays so for the life of the process (docs/decisions/0009).
Its last batch may be why, so that is computed on the CPU, where the worst of a
job is an exception. What waits goes to the devices that are left, or the CPU.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from lossserver.batch import BatchLimits, BatchQueue
from lossserver.device import CPU
from lossserver.isolate import Isolation, LostError, settle
from lossserver.job import Job
from lossserver.metrics import Metrics
from lossserver.onloop import BRIEF, OnLoop
from lossserver.pace import Pace
from lossserver.together import Kernels
from lossserver.worker import Batch, Worker

log = logging.getLogger("lossserver")

#: Workers that may die with empty hands and be replaced: our own fault, it might go on for ever.
REPLACED = 10


class Pool:
    """The workers of a server, and what waits for them.

    Parameters:
        devices: where they compute; all of one type.
        limits: when a batch is full, and how long a job waits for company.
        loop: the event loop whose futures are settled, and on which the methods are called.
        metrics: what counts batches, and what was given up.
        kernels: fused formulas; None computes each in eager steps.
        on_lost: called on the loop with a device that was lost.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        limits: BatchLimits,
        loop: asyncio.AbstractEventLoop,
        *,
        metrics: Metrics,
        kernels: Kernels | None = None,
        on_lost: Callable[[torch.device], None] = lambda _: None,
    ) -> None:
        self.devices = tuple(devices)
        self._loop = loop
        self._metrics = metrics
        self._kernels = kernels
        self._on_lost = on_lost
        self._pace = Pace()
        self._threads = 1
        self._near = self._isolation(CPU)
        self._on_loop = OnLoop(
            limits,
            loop,
            go=self._compute_here,
            late=lambda jobs: settle(self._near.late(jobs)),
            cost=self._pace.seconds,
        )
        self._wake = threading.Condition()
        self._queue: BatchQueue[Job] = BatchQueue(limits)
        self._again: deque[Sequence[Job]] = deque()
        self._workers: list[Worker] = []
        self._lost: set[torch.device] = set()
        self._left = REPLACED
        self._stopping = False
        metrics.queue_jobs.watch(lambda: self.waiting)
        metrics.queue_elements.watch(
            lambda: self._on_loop.waiting.size.elements + self._queue.size.elements
        )

    def start(self) -> None:
        """Begin to compute. Called on the event loop, which from now on computes single-threaded."""
        self._threads = torch.get_num_threads()
        with self._wake:
            for device in self.devices:
                self._begin(device)
        torch.set_num_threads(1)

    def expect(self) -> None:
        """Note that a call was accepted, whose message is still to come."""
        self._on_loop.expect()

    def arrived(self) -> None:
        """Note that the message of an accepted call has come."""
        self._on_loop.arrived()

    def put(self, job: Job) -> None:
        """Take a job; its future is settled on the event loop, at once if it is small and alone."""
        if self._is_small(job):
            self._on_loop.put(job)
            return
        with self._wake:
            self._queue.put(job, job.arrived)
            self._wake.notify_all()

    def _is_small(self, job: Job) -> bool:
        if CPU not in self.devices or job.elements > job.many * self._on_loop.largest:
            return False
        # Of what is computed alone, only what has shown it.
        return job.rows is not None or 0 < self._pace.seconds(job.pace, job.elements) < BRIEF

    def drop(self, job: Job) -> bool:
        """Forget a job whose caller has gone, if it still waits: it may hold much. Whether it did."""
        with self._wake:
            waited = self.waiting
            self._on_loop.waiting.drop(job)
            self._queue.drop(job)
            return self.waiting < waited

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._on_loop.waiting) + len(self._queue)

    def hurry(self) -> None:
        """Let nothing wait for company any more, since none will come."""
        self._on_loop.hurry()
        with self._wake:
            self._queue.hurry()
            self._wake.notify_all()

    def stop(self, timeout: float = threading.TIMEOUT_MAX) -> bool:
        """Compute what waits, then end the threads; whether they ended within so many seconds."""
        end = time.monotonic() + timeout
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        while workers := self._all():
            for worker in workers:
                worker.join(max(0.0, end - time.monotonic()))
            if time.monotonic() >= end:
                return not self._all()
        torch.set_num_threads(self._threads)
        return True

    def _all(self) -> tuple[Worker, ...]:
        with self._wake:  # one that takes another's place is started under it
            return tuple(self._workers)

    def next(self, worker: Worker, *, wait: bool = True) -> Batch | None:
        """The next batch for a worker; None if it is to end, or there is none and it does not wait."""
        with self._wake:
            while True:
                if self._again and worker.device == CPU:
                    return Batch(self._again.popleft(), last=True)
                now, due = time.monotonic(), None
                if self._serves(worker.device):
                    if batch := self._take(now):
                        return Batch(batch)
                    due = self._queue.due_at()
                if not wait or (due is None and self._stopping):
                    return None
                self._wake.wait(None if due is None else due - now)

    def _take(self, now: float) -> list[Job]:
        batch = self._queue.take(now, self._pace.seconds)
        if late := self._queue.late():
            self._loop.call_soon_threadsafe(settle, self._near.late(late))
        return batch

    def ended(
        self,
        worker: Worker,
        why: BaseException | None = None,
        unanswered: Sequence[Sequence[Job]] = (),
    ) -> None:
        """Take note that a worker computes no more. Another takes its place if it died."""
        with self._wake:
            self._workers.remove(worker)
            if why is None:
                return
            self._died(worker.device, why, unanswered)

    def _compute_here(self, batch: list[Job]) -> None:
        """Compute small jobs on the event loop; a batch that raises is taken apart by a thread."""
        late, going = self._near.weed(batch)
        settle(late)
        if not going:
            return
        try:
            outcome = self._near.attempt(going)
        except BaseException as why:  # noqa: BLE001  (the loop must go on)
            with self._wake:
                self._died(CPU, why, [going])
            return
        if not isinstance(outcome, Exception):
            settle(outcome)
        elif len(going) == 1:
            settle(self._near.guilty(going[0], outcome))
        else:
            with self._wake:
                self._again.append(going)
                self._wake.notify_all()

    def _died(
        self, device: torch.device, why: BaseException, unanswered: Sequence[Sequence[Job]]
    ) -> None:
        """See to it that the batches of a worker that died are answered."""
        log.error("the worker of %s died", device, exc_info=why)
        self._metrics.restarted(str(device))
        # Without a job in its hands it died of what is wrong with us, and would again.
        if isinstance(why, LostError) or not unanswered:
            self._lost.add(device)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._on_lost, device)
        else:
            self._replace(device)
        self._again.extend(unanswered)
        self._left -= not unanswered
        if unanswered or self._left > 0:
            self._replace(CPU)
        self._wake.notify_all()

    def _replace(self, device: torch.device) -> None:
        if all(worker.device != device for worker in self._workers):
            self._begin(device)

    def _serves(self, device: torch.device) -> bool:
        """Whether a device takes what waits: each that is not lost, or the CPU if all are."""
        left = set(self.devices) - self._lost
        return device in left or not left

    def _isolation(self, device: torch.device) -> Isolation:
        return Isolation(device, kernels=self._kernels, metrics=self._metrics, pace=self._pace)

    def _begin(self, device: torch.device) -> None:
        worker = Worker(device, self._isolation(device), self, self._loop, self._threads)
        self._workers.append(worker)
        worker.start()
