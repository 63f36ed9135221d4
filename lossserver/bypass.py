"""A stream's messages over a socket of their own. On the event loop only.

Incoming    bytes that come become messages
take        the stream begins with them; until it has, no more are received
write       an answer goes out, as fast as the client takes it
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from lossserver.awake import Awake
from lossserver.begun import Begun
from lossserver.offering import offered
from lossserver.told import told
from losswire import bypass
from losswire.errors import LossError, MessageTooLargeError, OverloadedError
from losswire.tensor import Buffer

#: Bytes that may be under way in either direction: so many calls are received together.
UNDER_WAY = 1 << 20

#: Seconds within which all of a message must have come.
PATIENCE = 30.0

Take = Callable[[Sequence[Buffer]], Coroutine[Any, Any, None]]


def pair() -> tuple[socket.socket, str, Callable[[], None]]:
    """Both ends of a Unix socket: ours, the name under which a client gets the other, what withdraws it.

    Raises:
        OSError: there can be none.
    """
    near, far = socket.socketpair()
    try:
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNDER_WAY)
        return near, *offered(far.detach())
    except BaseException:
        near.close()
        far.close()
        raise


class Bypass:
    """The bypass of one stream.

    Parameters:
        line: our end of it, which does not block.
        take: begins with messages; returns when others may come.
        broken: told why there can be no more of them.
        awake: told of messages that come and go.

    Attributes:
        used: the client has it, and sends by it.
    """

    def __init__(
        self,
        line: socket.socket,
        take: Take,
        broken: Callable[[LossError], None],
        awake: Awake,
    ) -> None:
        self._take = take
        self._broken = broken
        self._awake = awake
        self._loop = asyncio.get_running_loop()
        # From the first message on; half a message may be 4 MiB.
        self._incoming: bypass.Incoming | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._paused = False
        self._writable: asyncio.Future[None] | None = None
        self.used = False
        self._socket = line
        self._loop.add_reader(self._socket, self._readable)

    async def write(self, written: Sequence[Buffer]) -> None:
        """Send a message that is joined of these; returns once the line has taken it.

        Raises:
            OSError: the client has hung up.
        """
        left = bypass.framed(written)
        while left:
            try:
                left = bypass.unsent(left, self._socket.sendmsg(left[: bypass.MOST_BUFFERS]))
            except BlockingIOError:
                await self._room()
        self._awake.answered()

    def end(self) -> None:
        """Receive and send nothing more. May be called again."""
        self._unwatch()
        self.used = False
        self._incoming = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._has_room()

    def _readable(self) -> None:
        incoming = self._incoming = self._incoming or bypass.Incoming()
        try:
            count = self._socket.recv_into(incoming.room())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.end()  # how the stream ends gRPC will say
            return
        try:
            messages = incoming.came(count)
        except MessageTooLargeError as error:
            self._refuse(error)
            return
        if messages:
            self.used = True
            self._unwatch()
            self._awake.came(len(messages))
            if not Begun(self._begin(messages)).ended:
                self._paused = True
                self._loop.remove_reader(self._socket)
                return
        self._watch()

    async def _begin(self, messages: Sequence[Buffer]) -> None:
        try:
            await self._take(messages)
        except Exception as error:  # noqa: BLE001  (whatever it is, the client is told)
            self._refuse(told(error))
            return
        if self._paused and self._socket.fileno() >= 0:
            self._paused = False
            self._loop.add_reader(self._socket, self._readable)
            self._watch()

    def _watch(self) -> None:
        """See to it that a message whose beginning is there comes to its end."""
        if self._overdue is None and self._incoming is not None and self._incoming.amid:
            self._overdue = self._loop.call_later(PATIENCE, self._late)

    def _unwatch(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def _late(self) -> None:
        self._refuse(OverloadedError(f"a message must come within {PATIENCE:g} s"))

    def _refuse(self, error: LossError) -> None:
        """Receive nothing more: the stream ends."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
        self._broken(error)

    async def _room(self) -> None:
        """Wait until something can be sent, or the end."""
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._socket, self._has_room)
        await self._writable

    def _has_room(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket)
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
