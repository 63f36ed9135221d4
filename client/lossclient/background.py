"""Calls that are sent and not waited for: many in flight, without a thread each.

    at once      a small call goes over the stream; the thread that reads it settles the future
    in a thread  what cannot, and what has failed and is worth another attempt

A future ends no later than its timeout, whatever the server does: one thread looks
after those that are under way, for as long as there are any.
"""

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from lossclient.ended import UnservedError
from lossclient.line import FOR_EVER
from lossclient.planes import Planes
from lossclient.stream import Stream
from lossclient.transport import RETRIED
from lossclient.waiting import rest
from losswire.errors import DeadlineError, LossError
from losswire.frame import Parts
from losswire.streaming import Answered

#: Calls in flight at once that need a thread each; more wait their turn.
THREADS = 64

#: What a call may be sent once more for, one way or another.
ANOTHER_WAY = (*RETRIED, UnservedError)

#: In place of the parts of a call that has ended.
SENT = Parts(b"", ())

T = TypeVar("T")


class Background:
    """What works on submitted calls. Made again in a forked process.

    Parameters:
        planes: the ways to the server.
    """

    def __init__(self, planes: Planes) -> None:
        self._planes = planes
        self._pid = os.getpid()
        self._pool = ThreadPoolExecutor(THREADS, "lossclient")
        self._overdue = Overdue()

    @property
    def usable(self) -> bool:
        """Whether this is the process that made it."""
        return self._pid == os.getpid()

    def submit(
        self, parts: Parts, timeout: float | None, decode: Callable[[Parts], T]
    ) -> "Future[T]":
        """The future of what `decode` makes of the answer.

        Parameters:
            parts: of the call, in memory that is its own.
            timeout: seconds for everything; None is for ever.
            decode: called by whoever reads the answer, another thread as a rule.
        """
        call = Submitted(parts, timeout, decode, self._again)
        streams = self._planes.plane in ("auto", "stream")
        line = self._planes.transport.first() if streams else None
        if line is None or not self._planes.over_stream(parts) or not call.left() > 0:
            self._again(call)
            return call
        self._overdue.watch(call)
        try:
            call.begin(
                line.keep(Stream, Stream), functools.partial(self._planes.transport.late, line)
            )
        except LossError:
            self._again(call)
        return call

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _again(self, call: "Submitted[Any]") -> None:
        """Have a thread make as many attempts as it takes."""
        try:
            work = self._pool.submit(call.run, self._planes)
        except RuntimeError:  # it is closed
            call.cancel()
        else:
            work.add_done_callback(lambda _: call.cancel())


class Submitted(Future[T], Generic[T]):
    """A call that was submitted.

    Parameters:
        parts, timeout, decode: as above.
        again: called if it did not go over the stream, and may another way.

    Attributes:
        until: monotonic seconds after which nobody waits for it; infinity is never.
    """

    def __init__(
        self,
        parts: Parts,
        timeout: float | None,
        decode: Callable[[Parts], T],
        again: Callable[["Submitted[T]"], None],
    ) -> None:
        super().__init__()
        for_ever = timeout is None or timeout >= FOR_EVER
        self.until = math.inf if for_ever else time.monotonic() + (timeout or 0.0)
        self._parts = parts
        self._timeout = timeout
        self._decode = decode
        self._again = again
        self._stream: Stream | None = None
        self._number = 0
        # Taken by whoever ends it, for good.
        self._ending = threading.Lock()

    def left(self) -> float:
        """Seconds until nobody waits for it."""
        return self.until - time.monotonic()

    def begin(self, stream: Stream, late: Callable[[DeadlineError], None]) -> None:
        """Send it.

        Parameters:
            stream: over this.
            late: told if it is not answered in time.

        Raises:
            LossError: the stream is over.
        """
        self._late, self._stream = late, stream
        timeout = self._timeout if self.until < math.inf else None
        self._number = stream.begin(self._parts, timeout, self._answered, soon=True)
        if self.left() <= 0:  # nobody could end it before it had a number
            self.expire()

    def cancel(self) -> bool:
        """Wait for it no longer, if it is not answered; whether that was so."""
        cancelled = super().cancel()
        if cancelled and self._stream is not None:
            self._stream.cancel([self._number])
        if cancelled:
            self._end()
        return cancelled

    def expire(self) -> None:
        """Its time is over."""
        stream = self._stream
        if stream is not None and stream.cancel([self._number]):
            error = stream.late(self._timeout)
            self._late(error)
            self._settle(error)

    def run(self, planes: Planes) -> None:
        """Make as many attempts as it takes, in this thread."""
        parts = self._parts
        if self.cancelled():
            return
        try:
            found: Parts | Exception = planes.send(parts, rest(self.until, self._timeout))
        except Exception as error:  # noqa: BLE001  (whoever waits is told)
            found = error
        self._settle(found)

    def _answered(self, outcome: Answered | LossError) -> None:
        """It was answered over the stream, or never will be."""
        stream = self._stream
        assert stream is not None  # noqa: S101  (for mypy)
        try:
            found: Parts | Exception = stream.read(outcome, self._timeout)
        except ANOTHER_WAY:
            self._again(self)
            return
        except LossError as error:
            found = error
        self._settle(found)

    def _end(self) -> bool:
        """Whether it may be settled. Of a call that was cancelled, who waits for it is told so."""
        if not self._ending.acquire(blocking=False):
            return False
        # Whoever keeps a future keeps its result, not all that was sent.
        self._parts = SENT
        return self.set_running_or_notify_cancel()

    def _settle(self, found: Parts | Exception) -> None:
        if not self._end():
            return
        if isinstance(found, Exception):
            self.set_exception(found)
            return
        try:
            result = self._decode(found)
        except Exception as error:  # noqa: BLE001  (whoever waits is told)
            self.set_exception(error)
        else:
            self.set_result(result)


class Overdue:
    """Ends calls whose time is over, in a thread that is there as long as there are calls."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: set[Submitted[Any]] = set()
        self._next = math.inf  # when the thread looks again; there is none

    def watch(self, call: Submitted[Any]) -> None:
        """See to it that the call ends."""
        if call.until == math.inf:
            return
        self._calls.add(call)
        call.add_done_callback(self._done)
        with self._changed:
            if call.until >= self._next:
                return
            if self._next == math.inf:
                threading.Thread(target=self._look, name="lossclient-late", daemon=True).start()
            self._next = call.until
            self._changed.notify()

    def _done(self, call: Any) -> None:
        self._calls.discard(call)

    def _expire(self) -> None:
        # Not in `_look`, whose last call would stay with it while it waits.
        now = time.monotonic()
        for call in self._calls.copy():
            if call.until <= now:
                self._calls.discard(call)
                call.expire()

    def _look(self) -> None:
        while True:
            self._expire()
            with self._changed:
                self._next = min((call.until for call in self._calls.copy()), default=math.inf)
                if self._next == math.inf:
                    return
                self._changed.wait(max(0.0, self._next - time.monotonic()))
