"""How a thread waits for what another one finds."""

import threading
import time
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from lossclient.line import FOR_EVER
from losswire.errors import CancelledError, DeadlineError, LossError
from losswire.runs import Run
from losswire.streaming import Answered

T = TypeVar("T")


def rest(until: float, timeout: float | None) -> float | None:
    """Seconds until then, to make an attempt in; None is for ever.

    Parameters:
        until: monotonic seconds.
        timeout: what the caller gave for it.

    Raises:
        DeadlineError: the time is over.
    """
    if timeout is None or not timeout > 0:
        return timeout  # which is refused by whoever makes the attempt
    left = until - time.monotonic()
    if left <= 0:
        raise DeadlineError(f"a call must have its turn within the timeout of {timeout} s")
    return left if left < FOR_EVER else None


class Waiting(Generic[T]):
    """A thread that waits for one thing.

    Attributes:
        found: it, or what came instead; once `wait` has said that there is something.
    """

    def __init__(self) -> None:
        self._found: SimpleQueue[T | LossError] = SimpleQueue()
        self.found: T | LossError

    @property
    def ended(self) -> bool:
        """Whether there is something."""
        return not self._found.empty()

    def settle(self, found: T | LossError) -> None:
        """End the wait. If that is done twice, the first time counts."""
        self._found.put(found)

    def give_up(self) -> None:
        """End the wait: nobody wants it any longer."""
        self.settle(CancelledError("the call was given up"))

    def wait(self, timeout: float | None) -> bool:
        """Whether there is something within so many seconds; None is for ever."""
        try:
            self.found = self._found.get(timeout=timeout)
        except Empty:
            return False
        return True


class Gathering(Waiting[None]):
    """A thread that waits for what becomes of several calls. It is called with each answer.

    Parameters:
        count: how many calls.

    Attributes:
        answers: those that have come.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.answers: list[Answered | Run] = []
        self._left = count
        self._lock = threading.Lock()

    def __call__(self, found: Answered | Run | LossError) -> None:
        """Note an answer, or several, or that no more will come."""
        if isinstance(found, LossError):
            self.settle(found)
            return
        with self._lock:
            self.answers.append(found)
            self._left -= len(found.ids) if isinstance(found, Run) else 1
            all_there = not self._left
        if all_there:
            self.settle(None)
