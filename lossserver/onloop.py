"""Small jobs, on the event loop itself: when they go, and that they never hold it up.

There a second thread costs more than it gives: each of the sixty or so torch
operations of a small loss lets go of the interpreter's lock and waits for the
loop to yield it again. A lone small job is computed where it arrived; where
company is in sight it waits a moment for it (docs/decisions/0004), until as many
are there as lately went together.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from lossserver.batch import BatchLimits, BatchQueue, Cost
from lossserver.job import Job

#: Elements of a job that the event loop computes itself. torch's own threshold for using several
#: threads (at::internal::GRAIN_SIZE), and about 0.4 ms of focal loss on one.
SMALL = 1 << 15

#: Seconds that one of those may take which are computed alone, as far as is known: a few elements
#: may be compared with each other in any number of ways.
BRIEF = 0.001

#: Small jobs, and elements of them, that are enough for a batch: nearly all that company saves is
#: saved by then, and the loop must get back to its messages.
MANY = 32
MANY_ELEMENTS = 8 * SMALL

#: Calls of one job that wait for no others.
ENOUGH_CALLS = MANY // 2

#: Seconds without news after which a batch of small jobs goes: about what gRPC takes to hand over
#: the next call if one stands at the door. Seconds after which it goes in any case.
QUIET = 0.0003
ENOUGH = 0.005

#: Seconds after a batch of several for which more company is expected: callers who got their
#: answers together will soon ask together again.
BUSY = 0.02

#: Batches of several, the largest of which tells how many callers there are: once as many wait, all
#: are back.
LATELY = 4

#: Seconds for which a message is expected once its call was accepted: longer, and it is a large
#: one or a slow line, which is nobody else's reason to wait.
ABOUT_TO_COME = 0.001


class OnLoop:
    """The small jobs of one event loop.

    Parameters:
        limits: when a batch is full, and how long a job waits for company.
        loop: the event loop, on which all of this runs.
        go: computes a batch and settles its jobs.
        late: settles jobs that would come too late.
        cost: predicts how long a batch takes.
    """

    def __init__(
        self,
        limits: BatchLimits,
        loop: asyncio.AbstractEventLoop,
        *,
        go: Callable[[list[Job]], None],
        late: Callable[[list[Job]], None],
        cost: Cost,
    ) -> None:
        self.largest = min(SMALL, limits.max_elements)
        self._loop = loop
        self._go = go
        self._late = late
        self._cost = cost
        small = replace(limits, max_elements=min(MANY_ELEMENTS, limits.max_elements))
        self.waiting: BatchQueue[Job] = BatchQueue(small)
        self._waits = limits.max_wait > 0 or bool(limits.wait_of)
        self._look: asyncio.Handle | None = None
        # Some never come: the call was cancelled in between.
        self._coming: deque[float] = deque(maxlen=MANY)
        self._news = False
        self._busy_until = 0.0
        self._lately: deque[int] = deque([2], maxlen=LATELY)

    def expect(self) -> None:
        """Note that a call was accepted, whose message is still to come."""
        self._coming.append(time.monotonic())
        self._news = True

    def arrived(self) -> None:
        """Note that the message of an accepted call has come."""
        if self._coming:
            self._coming.popleft()

    def put(self, job: Job) -> None:
        """Take a job; compute it now if it is alone."""
        alone = job.many >= ENOUGH_CALLS or not self._company(0, job.arrived)
        if alone and self._look is None and not self._waits:
            self._go([job])
            return
        self.waiting.put(job, job.arrived)
        self._news = True
        # A look may be set for when the oldest has waited max_wait; this one may fill the batch.
        if self._look is None or self._waits or self._all_back():
            self._look_now()

    def hurry(self) -> None:
        """Let nothing wait for company any more, since none will come."""
        self.waiting.hurry()
        self._look_now()

    def _look_now(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Compute a batch if it is time, and look again while any job waits.

        gRPC accepts one call at a time, however many stand at the door. So where
        a second waits, or was accepted and is about to come, or a moment ago
        there were many, the batch goes when there has been no news for a while.
        """
        self._look = None
        now = time.monotonic()
        due = self.waiting.due_at()
        if due is None:
            return
        if due > now:
            self._look = self._loop.call_later(due - now, self._gather)
        elif (
            self._news
            and now - due < ENOUGH
            and not self._all_back()
            and self._company(len(self.waiting), now)
        ):
            self._news = False
            self._look = self._loop.call_later(QUIET, self._gather)
        else:
            self._look = self._loop.call_soon(self._gather)
            batch = self.waiting.take(now, self._cost)
            self._late(self.waiting.late())
            self._go(batch)
            if len(batch) > 1:
                self._lately.append(len(batch))
                self._busy_until = time.monotonic() + BUSY

    def _all_back(self) -> bool:
        """Whether as many wait as lately went together, and no other is about to come."""
        return not self._coming and len(self.waiting) >= max(self._lately)

    def _company(self, waiting: int, now: float) -> bool:
        """Whether more small jobs are likely to come in a moment, and there is room for them."""
        while self._coming and now - self._coming[0] > ABOUT_TO_COME:
            self._coming.popleft()
        in_sight = waiting + len(self._coming)
        return in_sight < MANY and (in_sight > min(waiting, 1) or now < self._busy_until)
