"""What a stream is to send: what waits goes out together, in one message.

Any thread leaves something here. The thread that sends iterates over the messages:
while one is on its way, the next gathers.
"""

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import NamedTuple

from losswire.tensor import Buffer

#: Bytes and calls from which a message is not added to: the server begins with the first the sooner.
TOGETHER = 2 << 20
MOST = 1024

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
        self._waiting: SimpleQueue[_Bundle | None] = SimpleQueue()

    def put(self, written: list[Buffer]) -> None:
        """Send this, of one call or none."""
        self._waiting.put(_Bundle(written, 1, sum(map(len, written))))

    def put_together(self, calls: Iterable[list[Buffer]]) -> None:
        """Send these calls, in one message if they fit."""
        written: list[Buffer] = []
        count = size = 0
        for call in calls:
            written += call
            count += 1
            size += sum(map(len, call))
            if size >= TOGETHER or count >= MOST:
                self._waiting.put(_Bundle(written, count, size))
                written, count, size = [], 0, 0
        self._waiting.put(_Bundle(written, count, size))

    def end(self) -> None:
        """Send nothing more."""
        self._waiting.put(None)

    def messages(self) -> Iterator[bytes]:
        """What is sent, until the end."""
        waiting = self._waiting
        while (bundle := waiting.get()) is not None:
            written, calls, size = bundle
            # What two bundles have together is below what a message may have.
            while size < TOGETHER and calls < GATHERED and not waiting.empty():
                more = waiting.get()
                if more is None:
                    return
                written += more.written
                calls += more.calls
                size += more.size
            yield b"".join(written)
