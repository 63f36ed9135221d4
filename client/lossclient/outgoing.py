"""What a stream is to send: what waits goes out together, in one message.

Any thread leaves something here. By gRPC the thread that sends iterates over the
messages: while one is on its way, the next gathers. By a bypass whoever leaves
something sends it at once, as far as the line takes it; the rest gathers, and gRPC's
thread, which has nothing else to do then, sends it when it can. So does what need not
go at once: a send costs whoever makes it a turn at the interpreter's lock.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import NamedTuple

from lossclient.bypass import Bypass
from losswire.bypass import LONGEST, framed
from losswire.frame import LARGE
from losswire.lists import TOGETHER
from losswire.tensor import Buffer

#: Calls that wait from which they are not gathered any further: while the server works on some, the
#: answers to others are read here.
GATHERED = 32


class _Bundle(NamedTuple):
    """What goes into one message.

    Attributes:
        written: what it is joined of.
        calls: how many there are in it.
        size: its bytes.
    """

    written: list[Buffer]
    calls: int
    size: int


class Outgoing:
    """The messages of one stream."""

    def __init__(self) -> None:
        self._waiting: deque[_Bundle] = deque()
        # One True for gRPC's thread whenever it is to look, and None at the end.
        self._bell: SimpleQueue[bool | None] = SimpleQueue()
        self._bypass: Bypass | None = None
        # What goes by gRPC all the same.
        self._long: deque[list[Buffer]] = deque()
        # Whoever holds it sends by the bypass; what is left of a message the next one goes on with.
        self._sending = threading.Lock()
        self._rest: list[Buffer] = []
        self._full = False

    def put(self, written: list[Buffer], *, soon: bool = False) -> None:
        """Send this, of one call or none; or soon, together with what comes meanwhile."""
        self._put(_Bundle(written, 1, sum(map(len, written))), soon=soon)

    def put_together(self, calls: Iterable[tuple[int, list[Buffer]]]) -> None:
        """Send these, so many calls each, in one message if they fit."""
        written: list[Buffer] = []
        count = size = 0
        for several, own in calls:
            more = sum(map(len, own))
            if count and size + more > TOGETHER:
                self._put(_Bundle(written, count, size))
                written, count, size = [], 0, 0
            written += own
            count, size = count + several, size + more
        if count:
            self._put(_Bundle(written, count, size))

    def go_by(self, bypass: Bypass) -> None:
        """Send by a bypass from now on, but for what is too long for it."""
        with self._sending:
            self._bypass = bypass
        self._bell.put(True)  # whoever left something meanwhile could not send it

    def leave(self, bypass: Bypass) -> None:
        """Send nothing more by a bypass: it has ended, and so will the stream."""
        with self._sending:  # or another file might have its descriptor, and be written to
            bypass.close()

    @property
    def bypassed(self) -> bool:
        """Whether there is a bypass."""
        return self._bypass is not None

    def end(self) -> None:
        """Send nothing more."""
        self._bell.put(None)

    def messages(self) -> Iterator[bytes]:
        """What is to go by gRPC, until the end."""
        while self._bell.get() is not None:
            with self._sending:
                bypass = self._bypass
                found = self._by_grpc()
            if bypass is not None:
                if not found:
                    bypass.wait()
                    self._full = False
                self._send(bypass)  # also what was left here while we held the lock
            if found:
                yield b"".join(found)

    def _put(self, bundle: _Bundle, *, soon: bool = False) -> None:
        self._waiting.append(bundle)
        bypass = self._bypass
        if bypass is None:
            self._bell.put(True)
        elif not soon:
            self._send(bypass)
        elif self._bell.empty():  # or gRPC's thread will look, and after this
            self._bell.put(True)

    def _by_grpc(self) -> list[Buffer]:
        """What is to go by gRPC now; nothing if there is nothing."""
        if self._bypass is not None:
            return self._long.popleft() if self._long else []
        return self._next().written if self._waiting else []

    def _next(self) -> _Bundle:
        """What waits, up to a message."""
        waiting = self._waiting
        written, calls, size = waiting.popleft()
        # What is large stays by itself: it lies aligned, and together it might be too long.
        while size < TOGETHER and calls < GATHERED and waiting and waiting[0].size < LARGE:
            more = waiting.popleft()
            written += more.written
            calls += more.calls
            size += more.size
        return _Bundle(written, calls, size)

    def _send(self, bypass: Bypass) -> None:
        """Send by the bypass what it takes, unless another thread does."""
        while (self._waiting or self._rest) and not self._full:
            if not self._sending.acquire(blocking=False):
                return  # who holds it looks again, after
            try:
                self._send_some(bypass)
            except BaseException:
                bypass.end()  # what was not sent is lost, perhaps others' calls: the stream must end
                raise
            finally:
                self._sending.release()

    def _send_some(self, bypass: Bypass) -> None:
        while self._rest or self._waiting:
            if not self._rest:
                bundle = self._next()
                if bundle.size > LONGEST:
                    self._long.append(bundle.written)
                    self._bell.put(True)
                    continue
                self._rest = framed(bundle.written)
            try:
                left = bypass.send(self._rest)
            except OSError:  # the server has hung up; what the calls are told the stream sees to
                self._waiting.clear()
                self._rest = []
                return
            if left is None:
                self._full = True
                self._bell.put(True)
                return
            self._rest = left
