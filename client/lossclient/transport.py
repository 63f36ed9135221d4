"""Attempts at a call, repeated while it makes sense, at one server or another.

A call is a pure function of its message, so sending it twice is safe, and so is
sending it elsewhere. gRPC's own retries stop at messages over 256 KiB; these do not.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from lossclient import local
from lossclient.hedge import Hedge, Hedging
from lossclient.line import FOR_EVER, Line
from lossclient.retry import OnUnavailable, Retry
from lossclient.targets import Target, Targets
from losswire.errors import (
    DeadlineError,
    DrainingError,
    LossError,
    OverloadedError,
    UnreachableError,
)

log = logging.getLogger("lossclient")

#: What another server may do, or the same one later: nobody there, going down, too busy.
RETRIED = (UnreachableError, DrainingError, OverloadedError)

T = TypeVar("T")


class Transport:
    """Where calls go.

    Parameters:
        targets: the servers.
        retry: how a call is repeated.
        hedge: when it is sent to a second server while the first one works; None is never.
        on_unavailable: what to do where no server answers: "wait", "local" or "raise".

    Attributes:
        local: computes a call in this process; None unless on_unavailable is "local".
        tally: how often a call was "repeated", "hedged" (sent to a second server as well), "won"
            there, and "local". About: threads that count at the same time may lose one.

    Raises:
        ValueError: there is no such word, or nothing to hedge with.
        ModuleNotFoundError: what computes locally is not installed.
    """

    def __init__(
        self,
        targets: Targets,
        retry: Retry,
        hedge: Hedge | None = None,
        on_unavailable: OnUnavailable = "wait",
    ) -> None:
        if on_unavailable not in {"wait", "local", "raise"}:
            raise ValueError(
                f"on_unavailable must be 'wait', 'local' or 'raise'; given {on_unavailable!r}"
            )
        self.targets = targets
        self.local = local.find() if on_unavailable == "local" else None
        self.tally: Counter[str] = Counter()
        self._retry = retry
        self._raises = on_unavailable == "raise"
        self._made_of = targets, retry, hedge, on_unavailable
        self._hedging = Hedging(hedge, targets, self.tally) if hedge else None
        self._without_server = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Transport, self._made_of

    def call(self, method: str, message: bytes, timeout: float | None) -> bytes:
        """The reply to `message`, within `timeout` seconds (None is for ever), retries included.

        Raises:
            LossError: what the server said, or why it could not be asked.
        """
        return self.run(lambda line, left: line.call(method, message, left), timeout)

    def run(
        self,
        attempt: Callable[[Line, float | None], T],
        timeout: float | None,
        *,
        size: int = 0,
        instead: Callable[[float | None], T] | None = None,
    ) -> T:
        """What `attempt` gives of a line and the seconds that are left, repeated while that helps.

        Parameters:
            attempt: raises a LossError where it fails; the last one is raised here.
            timeout: seconds for everything; None is for ever.
            size: bytes that go up: calls of about the same size take about as long.
            instead: gives the same without a server, of the seconds that are left.
        """
        self.check_open()
        course = _Course(timeout)
        while True:
            for target in self.targets.order(well=instead is not None):
                try:
                    return self._ask(target, attempt, course, size)
                except RETRIED as error:
                    course.note(target, error)
                    self._failed(target, error)
                if course.left() == 0:
                    break
            if instead is not None and not isinstance(course.told, OverloadedError):
                return self._here(instead, course)
            self._wait(course)

    def first(self) -> Line | None:
        """Where the next call goes first; None if more is to be done than to send it there.

        Raises:
            ValueError: the client is closed.
        """
        self.check_open()
        target = self.targets.order()[0]
        plain = self._hedging is None and self._retry.attempts is None
        return target.line if plain and target.well else None

    def late(self, line: Line, error: DeadlineError) -> None:
        """Take note that a call which was sent over a line was not answered in time."""
        for target in self.targets.order():
            if target.line is line:
                self.targets.failed(target, error)

    def close(self) -> None:
        """Close what is open. Calls in flight end with CancelledError."""
        self.targets.close()
        if self._hedging is not None:
            self._hedging.close()

    def check_open(self) -> None:
        """Raise ValueError if the client is closed."""
        self.targets.check_open()

    def _ask(
        self,
        target: Target,
        attempt: Callable[[Line, float | None], T],
        course: "_Course",
        size: int,
    ) -> T:
        """What one server gives."""
        self.tally["repeated"] += course.tried > 0
        course.tried += 1
        left = course.left()
        try:
            if self._hedging is not None:
                return self._hedging.run(attempt, target, left, size)
            found = attempt(target.line, left)
        except DeadlineError as error:
            self.targets.failed(target, error)
            raise
        self._without_server = False
        target.answered()
        return found

    def _failed(self, target: Target, error: LossError) -> None:
        """Note it, and say so if others are asked now."""
        if target.well and len(self.targets) > 1:
            # As text: whoever keeps the record would keep all that the error's traceback leads to.
            log.warning("%s; asking another", str(error))
        self.targets.failed(target, error)

    def _here(self, instead: Callable[[float | None], T], course: "_Course") -> T:
        """What is computed in this process, where no server answers."""
        if not self._without_server:
            self._without_server = True
            log.warning("no server answers at %s; computing in this process", str(self.targets))
        self.tally["local"] += 1
        return instead(course.left())

    def _wait(self, course: "_Course") -> None:
        """Wait, all targets having failed once more.

        Raises:
            LossError: it would be too long, or in vain.
        """
        error = course.told
        wait = self._retry.waits(course.rounds)
        course.rounds += 1
        over = course.rounds == self._retry.attempts or course.spent() + wait >= course.whole
        if over or (self._raises and not isinstance(error, OverloadedError)):
            raise course.failure()
        if course.rounds == 1:
            left = course.whole - course.spent()
            log.warning("%s; trying again for up to %.0f s", str(error), left)
        time.sleep(wait)


class _Course:
    """How far one call has come.

    Attributes:
        whole: seconds for everything.
        tried: attempts so far.
        rounds: times that all targets have failed.
        told: the last error.
    """

    def __init__(self, timeout: float | None) -> None:
        self.whole = math.inf if timeout is None else timeout
        if not self.whole > 0:
            raise DeadlineError("must be above 0", field="timeout", given=f"{timeout} s")
        self._started = time.monotonic()
        self.tried = self.rounds = 0
        self.told: LossError | None = None
        self._each: dict[str, LossError] = {}

    def note(self, target: Target, error: LossError) -> None:
        """Take note that a target has failed."""
        self.told = self._each[target.line.target] = error

    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    def left(self) -> float | None:
        """Seconds for what is to come; None is for ever."""
        left = max(0.0, self.whole - self.spent())
        return left if left < FOR_EVER else None

    def failure(self) -> LossError:
        """What the caller is told in the end."""
        assert self.told is not None  # noqa: S101  (for mypy)
        if self.tried > 1:
            each = "; ".join(dict.fromkeys(map(str, self._each.values())))
            self.told.args = (f"{each} [after {self.tried} attempts in {self.spent():.1f} s]",)
        return self.told
