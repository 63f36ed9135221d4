"""The same call to a second server, when the first one takes unusually long.

The first answer wins and the other attempt is given up. Safe, because a call is a
pure function of its message. A budget keeps it from doubling an overload: where
all servers are slow, all calls are unusually long.
"""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from lossclient.giving_up import Attempt
from lossclient.line import Line
from lossclient.targets import Target, Targets
from losswire.errors import LossError, ServiceError

#: Calls of a size that are remembered, and that must be before it is known what is unusual.
REMEMBERED = 128
ENOUGH = 20

#: Second attempts that calls may have saved up for.
SAVED = 10.0

#: Hedged calls in flight at once, twice: an attempt each. More wait their turn.
THREADS = 256

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Hedge:
    """When a call is sent to a second server as well.

    Attributes:
        after: seconds without an answer; None is longer than 95 of 100 recent calls of about the
            same size took.
        extra: the share of calls that may be sent twice.
    """

    after: float | None = None
    extra: float = 0.05

    def __post_init__(self) -> None:
        if self.after is not None and not self.after > 0:
            raise ValueError(f"after must be above 0, or None; given {self.after}")
        if not 0 < self.extra <= 1:
            raise ValueError(f"extra must be above 0 and at most 1; given {self.extra}")


class Latencies:
    """How long recent calls took, by the power of two of their bytes."""

    def __init__(self) -> None:
        self._of: dict[int, deque[float]] = {}

    def note(self, size: int, seconds: float) -> None:
        """A call of so many bytes took so long."""
        self._of.setdefault(size.bit_length(), deque(maxlen=REMEMBERED)).append(seconds)

    def unusual(self, size: int) -> float | None:
        """Seconds that 95 of 100 calls of about this size took less than; None if not known yet."""
        seen = sorted(self._of.get(size.bit_length(), ()))
        return seen[len(seen) * 95 // 100] if len(seen) >= ENOUGH else None


class Budget:
    """What each call saves up for a second attempt, of itself or of another.

    Parameters:
        extra: the share of an attempt that a call saves.
    """

    def __init__(self, extra: float) -> None:
        self._extra = extra
        self._saved = 1.0
        self._lock = threading.Lock()

    def save(self) -> None:
        """One more call."""
        with self._lock:
            self._saved = min(SAVED, self._saved + self._extra)

    def spend(self) -> bool:
        """Whether there is enough for an attempt, which is spent then."""
        with self._lock:
            if self._saved < 1:
                return False
            self._saved -= 1
            return True


class _Runner(Generic[T]):
    """One of the attempts at a call, in a thread of its own."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        attempt: Callable[[Line, float | None], T],
        target: Target,
        left: float | None,
    ) -> None:
        self.target = target
        self.attempt = Attempt()
        self.future: Future[T] = pool.submit(self._run, attempt, left)

    def _run(self, attempt: Callable[[Line, float | None], T], left: float | None) -> T:
        with self.attempt.running():
            return attempt(self.target.line, left)


class Hedging:
    """Sends calls, some of them twice.

    Parameters:
        hedge: when.
        targets: the servers.
        tally: where second attempts are counted, and those that won.

    Raises:
        ValueError: there is no second server.
    """

    def __init__(self, hedge: Hedge, targets: Targets, tally: Counter[str]) -> None:
        if len(targets) == 1:
            raise ValueError(f"hedge must have several targets; given {targets}")
        self._hedge = hedge
        self._targets = targets
        self._tally = tally
        self._latencies = Latencies()
        self._budget = Budget(hedge.extra)
        self._lock = threading.Lock()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def run(
        self,
        attempt: Callable[[Line, float | None], T],
        target: Target,
        left: float | None,
        size: int,
    ) -> T:
        """What `attempt` gives of `target`, or of another if that is sooner.

        Raises:
            LossError: of `target`, if the other has none to give either.
        """
        after = self._hedge.after or self._latencies.unusual(size)
        other = self._other(target)
        self._budget.save()
        started = time.monotonic()
        if after is None or other is None or (left is not None and left <= after):
            found = attempt(target.line, left)
            target.answered()
        else:
            first = _Runner(self._threads(), attempt, target, left)
            rest = None if left is None else left - after
            found = self._hedged(
                first, after, lambda: _Runner(self._threads(), attempt, other, rest)
            )
        self._latencies.note(size, time.monotonic() - started)
        return found

    def close(self) -> None:
        """Let go of the threads; attempts that are under way end by themselves."""
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown(wait=False)

    def _hedged(self, first: _Runner[T], after: float, second: Callable[[], _Runner[T]]) -> T:
        """What the first one finds, or a second one that is begun after so many seconds."""
        runners = [first]
        try:
            wait([first.future], after)
            if not first.future.done() and self._budget.spend():
                self._tally["hedged"] += 1
                runners.append(second())
            return self._first_of(runners)
        finally:
            for runner in runners:
                runner.attempt.give_up()

    def _other(self, target: Target) -> Target | None:
        others = (one for one in self._targets.order(well=True) if one is not target)
        return next(others, None)

    def _first_of(self, runners: list[_Runner[T]]) -> T:
        """The first answer. An error that the other server may not have is none."""
        by_future = {runner.future: runner for runner in runners}
        for future in as_completed(by_future):
            error = future.exception()
            if error is None:
                by_future[future].target.answered()
                if future is not runners[0].future:
                    self._tally["won"] += 1
                    runners[0].target.doubted()
                break
            if not isinstance(error, ServiceError):
                raise error
            if isinstance(error, LossError) and by_future[future] is not runners[0]:
                self._targets.failed(by_future[future].target, error)
        else:
            future = runners[0].future
        return future.result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is not None and self._pool[0] != os.getpid():
            self._lock = threading.Lock()  # the parent may have forked while it was held
        with self._lock:
            if self._pool is None or self._pool[0] != os.getpid():
                self._pool = os.getpid(), ThreadPoolExecutor(THREADS, "lossclient.hedge")
            return self._pool[1]
