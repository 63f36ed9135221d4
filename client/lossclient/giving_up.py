"""Attempts that another thread may give up, because another server has answered first.

Whoever waits for a server inside an attempt says what ends that wait:

    attempt = current()
    with attempt.ended_by(call.cancel) if attempt else nullcontext():
        ...wait...
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_of_thread = threading.local()


class Attempt:
    """One of several attempts at the same call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], object] | None = None
        self.given_up = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """This thread is at it."""
        _of_thread.attempt = self
        try:
            yield
        finally:
            _of_thread.attempt = None

    @contextmanager
    def ended_by(self, end: Callable[[], object]) -> Iterator[None]:
        """Something is waited for which `end` ends; at once, if the attempt was given up before."""
        with self._lock:
            self._end = end
            late = self.given_up
        if late:
            end()
        try:
            yield
        finally:
            with self._lock:
                self._end = None

    def give_up(self) -> None:
        """End what the attempt waits for, and whatever it may wait for later. From any thread."""
        with self._lock:
            self.given_up = True
            end = self._end
        if end is not None:
            end()


def current() -> Attempt | None:
    """The attempt that this thread is at, if it may be given up."""
    attempt: Attempt | None = getattr(_of_thread, "attempt", None)
    return attempt
