"""Attempts at a call, repeated while it makes sense.

A call is a pure function of its message, so sending it twice is safe. gRPC's
own retries stop at messages over 256 KiB; these do not.
"""

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lossclient.line import FOR_EVER, Line
from losswire.errors import (
    DeadlineError,
    DrainingError,
    LossError,
    OverloadedError,
    UnreachableError,
)

log = logging.getLogger("lossclient")

#: What passes by itself: nobody there, going down, too busy.
RETRIED = (UnreachableError, DrainingError, OverloadedError)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How a call is repeated when no server answers, it shuts down, or it is too busy.

    Attributes:
        attempts: times a call is sent at most; None is until its timeout.
        first_wait: seconds before the second attempt; each further wait is twice the last.
        longest_wait: seconds that no wait exceeds.
    """

    attempts: int | None = None
    first_wait: float = 0.05
    longest_wait: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, or None; given {self.attempts}")

    def waits(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, the first being 0.

        Between half of it and all, at random, so that a hundred trainers do not
        come back at once.
        """
        wait = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt, 30))
        return wait * random.uniform(0.5, 1)  # noqa: S311


class Transport:
    """Where calls go.

    Parameters:
        line: to the server.
        retry: how a call is repeated.
    """

    def __init__(self, line: Line, retry: Retry) -> None:
        self.line = line
        self._retry = retry

    def call(self, method: str, message: bytes, timeout: float | None) -> bytes:
        """The reply to `message`, within `timeout` seconds (None is for ever), retries included.

        Raises:
            LossError: what the server said, or why it could not be asked.
        """
        return self.run(lambda line, left: line.call(method, message, left), timeout)

    def run(self, attempt: Callable[[Line, float | None], T], timeout: float | None) -> T:
        """What `attempt` gives of a line and the seconds that are left, repeated while that helps.

        Parameters:
            attempt: raises a LossError where it fails.
            timeout: seconds for everything; None is for ever.

        Raises:
            LossError: of the last attempt.
        """
        whole = math.inf if timeout is None else timeout
        if not whole > 0:
            raise DeadlineError("must be above 0", field="timeout", given=f"{timeout} s")
        started = time.monotonic()
        tried = 0
        while True:
            left = max(0.0, whole - (time.monotonic() - started))
            try:
                return attempt(self.line, left if left < FOR_EVER else None)
            except RETRIED as error:
                told = error
            wait = self._retry.waits(tried)
            tried += 1
            spent = time.monotonic() - started
            if tried == self._retry.attempts or spent + wait >= whole:
                raise _counted(told, tried, spent)
            if tried == 1:
                log.warning("%s; trying again for up to %.0f s", told, whole - spent)
            time.sleep(wait)

    def close(self) -> None:
        """Close what is open. Calls in flight end with CancelledError."""
        self.line.close()

    def check_open(self) -> None:
        """Raise ValueError if the client is closed."""
        self.line.check_open()


def _counted(error: LossError, attempts: int, seconds: float) -> LossError:
    if attempts > 1:
        error.args = (f"{error} [after {attempts} attempts in {seconds:.1f} s]",)
    return error
