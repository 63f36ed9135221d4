"""One batch on one device, computed so that nobody pays for a neighbour.

If a batch raises, whatever it is, its halves are computed again, and theirs,
until the guilty job stands alone and has its own error; everybody else has a
result. One guilty job among n costs the others 2 log2(n) smaller computations.

Two things are not a job's guilt, and end the attempt instead: a device that is
lost, and what is no Exception. Such a batch has one more chance, the last, for
which nothing but the jobs is to blame.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch

from lossserver.compute import begin, compute
from lossserver.device import answers, free, half_of_threads
from lossserver.faults import is_full, is_lost, out_of_memory
from lossserver.job import Computed, Job, Result
from lossserver.metrics import Metrics
from lossserver.pace import Pace
from lossserver.staging import Staging
from lossserver.together import Kernels
from losswire.errors import DeadlineError

Outcome = Result | Exception
Settled = list[tuple[Job, Outcome]]


class LostError(Exception):
    """The device answers nobody any more. Its cause says how."""


class Isolation:
    """What becomes of the jobs of a batch.

    Parameters:
        device: where it computes.
        kernels: fused formulas; None computes each in eager steps.
        metrics: where it is counted.
        pace: what learns from each batch how long one takes.
    """

    def __init__(
        self, device: torch.device, *, kernels: Kernels | None, metrics: Metrics, pace: Pace
    ) -> None:
        self._device = device
        self._kernels = kernels
        self._metrics = metrics
        self._pace = pace
        self._free_since = 0.0

    def weed(self, batch: Sequence[Job]) -> tuple[Settled, list[Job]]:
        """The jobs that are too late, with what they are told; and those to compute.

        In neither are those that nobody waits for.
        """
        now = time.monotonic()
        late: list[Job] = []
        going: list[Job] = []
        for job in batch:
            if job.future.done():
                continue
            (late if self._is_late(job, now) else going).append(job)
        return self.late(late), going

    def late(self, jobs: Sequence[Job]) -> Settled:
        """What jobs are told that would come too late."""
        now = time.monotonic()
        return [(job, self._lateness(job, now)) for job in jobs]

    def _is_late(self, job: Job, now: float) -> bool:
        if job.deadline is None:
            return False
        return job.deadline < now + self._pace.seconds(job.pace, job.elements)

    def _lateness(self, job: Job, now: float) -> DeadlineError:
        left = (job.deadline or 0) - now
        if left <= 0:
            self._metrics.shed("deadline_passed")
            waited = f"{now - job.arrived:.3f} s in the queue"
            return DeadlineError("the deadline passed in the queue", given=waited)
        self._metrics.shed("deadline_unreachable")
        needed = self._pace.seconds(job.pace, job.elements)
        self._pace.refuse(job.pace)
        return DeadlineError(
            f"the deadline must leave the {needed:.3f} s that this call is likely to take",
            given=f"{left:.3f} s",
        )

    def results(self, batch: Sequence[Job]) -> Settled:
        """The results of a batch. May raise anything at all."""
        started = time.monotonic()
        with half_of_threads() if all(job.moving for job in batch) else nullcontext():
            return self._told(batch, compute(batch, self._device, self._kernels), started)

    def begin(self, batch: Sequence[Job], way: Staging) -> Callable[[], Settled]:
        """Have a batch computed; gives what waits for its results. Either may raise anything at all."""
        started = time.monotonic()
        pending = begin(batch, way, self._kernels)
        return lambda: self._told(batch, pending.finish(), started)

    def _told(self, batch: Sequence[Job], computed: Sequence[Computed], started: float) -> Settled:
        ended = time.monotonic()
        # The device had another batch to compute until then.
        seconds = ended - max(started, self._free_since)
        self._free_since = ended
        elements = sum(job.elements for job in batch)
        self._pace.learn(batch[0].pace, elements, seconds)
        calls = sum(job.many for job in batch)
        self._metrics.batched(calls, elements, seconds)
        return [
            (
                job,
                Result(
                    computed=own if job.landed is None else job.landed(own),
                    batch=calls,
                    queue=started - job.arrived,
                    compute=ended - started,
                ),
            )
            for job, own in zip(batch, computed, strict=True)
        ]

    def pieces(self, batch: Sequence[Job], *, last: bool = False) -> Iterator[Settled]:
        """What became of the jobs of a batch, as soon as it is known.

        Raises:
            LostError: the device is lost. Never with `last`.
            BaseException: what is no Exception. Never with `last`.
        """
        parts = [batch]
        while parts:
            late, part = self.weed(parts.pop())
            yield late
            if not part:
                continue
            outcome = self.attempt(part, last=last)
            if not isinstance(outcome, Exception):
                yield outcome
            elif len(part) == 1:
                yield self.guilty(part[0], outcome)
            else:
                self._metrics.split()
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]

    def guilty(self, job: Job, error: Exception) -> Settled:
        """What becomes of a job that raised even alone."""
        self._metrics.poisoned()
        return [(job, error)]

    def attempt(self, part: list[Job], *, last: bool = False) -> Settled | Exception:
        """The results, or what was raised instead, as the caller of a lone job is told it.

        Raises:
            LostError: the device is lost. Never with `last`.
            BaseException: what is no Exception. Never with `last`.
        """
        try:
            return self.results(part)
        except BaseException as error:
            full = is_full(error)
            if not last and not full:
                if not isinstance(error, Exception):
                    raise
                if is_lost(error) or not answers(self._device):
                    raise LostError from error
            told = out_of_memory(error, part[0].bytes) if full else as_outcome(error)
        # Not before the error is gone: its traceback holds the tensors of the attempt.
        if full:
            free(self._device)
        return told


def as_outcome(error: BaseException) -> Exception:
    """An error that a future can have: neither what would stop the event loop, nor StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"a loss raised {type(error).__name__}")
    told.__cause__ = error
    return told


def settle(settled: Settled) -> None:
    """Hand each outcome to whoever waits for it. On the event loop."""
    for job, outcome in settled:
        if job.future.done():
            continue  # its caller gave up meanwhile
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
