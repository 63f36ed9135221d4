"""What a stream has to say: whatever is ready goes out together, in one message.

While one message is on its way the next gathers. A client that does not read
holds it up, for PATIENCE seconds.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from lossserver.begun import Begun
from losswire.tensor import Buffer

#: Bytes from which a message is not added to: a client sees the first answers the sooner.
TOGETHER = 1 << 20

#: Seconds within which a client must have read a message.
PATIENCE = 30.0


class _Entry(NamedTuple):
    """One answer."""

    written: list[Buffer]
    gone: Callable[[], None]


class Outbox:
    """The answers of one stream. On the event loop only.

    Parameters:
        write: sends a message that is joined of these; returns once the line has taken it.
        unread: called if the client does not read; then to call `end`.
    """

    def __init__(
        self, write: Callable[[list[Buffer]], Awaitable[None]], unread: Callable[[], None]
    ) -> None:
        self._write = write
        self._unread = unread
        self._entries: deque[_Entry] = deque()
        self._sending: list[_Entry] = []
        self._begun: Begun | None = None
        self._ended = False

    def put(self, written: list[Buffer], gone: Callable[[], None]) -> None:
        """Send what a message may be joined of; `gone` is called when it was sent, or never will be."""
        if self._ended:
            gone()
            return
        self._entries.append(_Entry(written, gone))
        if len(self._entries) == 1:
            # Others of the same batch are ready in a moment.
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Send what there is, if nothing is on its way."""
        if self._entries and not self._sending:
            self._begun = Begun(self._send())

    def end(self) -> None:
        """Nothing is sent any more."""
        self._ended = True
        if self._begun is not None:
            self._begun.cancel()
        self._sending += self._entries
        self._entries.clear()
        self._sent()

    async def _send(self) -> None:
        """Send until there is nothing to send."""
        loop = asyncio.get_running_loop()
        while self._entries:
            message = self._next()
            overdue = loop.call_later(PATIENCE, self._unread)
            try:
                await self._write(message)
            except Exception:  # noqa: BLE001  (whatever it is, this message is not read)
                self._unread()
            finally:
                overdue.cancel()
            del message
            self._sent()

    def _next(self) -> list[Buffer]:
        """What the next message is joined of."""
        joined: list[Buffer] = []
        size = 0
        while self._entries and size < TOGETHER:
            entry = self._entries.popleft()
            self._sending.append(entry)
            joined += entry.written
            size += sum(map(len, entry.written))
            entry.written.clear()  # they are in the message
        return joined

    def _sent(self) -> None:
        sending, self._sending = self._sending, []
        for entry in sending:
            entry.gone()
