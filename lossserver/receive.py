"""When does a call's message come in? So that what gRPC holds is bounded, too.

gRPC receives the whole of a message as soon as somebody asks for it, and not
before: until then HTTP/2's flow control holds it back at its sender, but for
the first 64 KiB. How large it will be nobody knows beforehand; what a caller
says of that is not to be trusted. So a message is expected to be as large as the
largest that its connection has sent so far, or as the largest allowed if there
was none, and all that are coming in together must fit a budget.

Small messages are here by the time they are asked for. Who sends only such waits
for nobody.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from lossserver.admit import Limits
from losswire.errors import MessageError, OverloadedError

#: Bytes of a message that is here, or nearly, before it is asked for: HTTP/2's initial window.
SMALL = (1 << 16) - 1

#: Connections whose largest message is remembered.
REMEMBERED = 4096

#: Seconds that a message may take, and bytes a second beyond that; a caller that stopped sending
#: must not hold its place for ever.
PATIENCE = 10.0
SLOWEST = 1e6


class Receiving:
    """The messages that are coming in. On the event loop only; needs no lock."""

    def __init__(self, limits: Limits) -> None:
        self._budget = limits.max_bytes_in_flight
        self._largest = limits.max_message_bytes
        self._coming = 0
        self._largest_of: OrderedDict[str, int] = OrderedDict()
        self._waiting: deque[tuple[str, asyncio.Future[int]]] = deque()

    async def message(self, read: Callable[[], Awaitable[bytes]], peer: str) -> bytes:
        """What `read` gives, once there is room for as much as `peer` may be sending.

        Raises:
            MessageError: there is none.
            OverloadedError: it comes so slowly that others must not wait for it.
        """
        expected = self._largest_of.get(peer, self._largest)
        message = await (read() if expected <= SMALL else self._large(read, peer))
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise MessageError("a call must have one message", given="none")
        if len(message) > self._largest_of.get(peer, 0):
            self._learn(peer, len(message))
        return message

    async def _large(self, read: Callable[[], Awaitable[bytes]], peer: str) -> bytes:
        held = await self._room(peer)
        try:
            async with asyncio.timeout(PATIENCE + held / SLOWEST):
                return await read()
        except TimeoutError:
            raise OverloadedError("a message must come at 1 MB/s at least; try again") from None
        finally:
            self._coming -= held
            self._wake()

    def _learn(self, peer: str, size: int) -> None:
        self._largest_of[peer] = size
        self._largest_of.move_to_end(peer)
        if len(self._largest_of) > REMEMBERED:
            self._largest_of.popitem(last=False)

    async def _room(self, peer: str) -> int:
        """Bytes held for a message of this peer, once it is its turn."""
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((peer, turn))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._coming -= turn.result()
            self._wake()
            raise

    def _wake(self) -> None:
        """Let in whose turn it is, first come first served."""
        while self._waiting:
            peer, turn = self._waiting[0]
            expected = self._largest_of.get(peer, self._largest)
            if turn.done():
                self._waiting.popleft()  # its caller has gone
            elif self._coming and self._coming + expected > self._budget:
                return
            else:
                self._waiting.popleft()
                self._coming += expected
                turn.set_result(expected)
