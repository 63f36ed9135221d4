"""One direct connection: TCP to a client, over which the pieces of a call come and go. On the event loop."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator

from losswire.bypass import unsent
from losswire.direct import IDLE, MAGIC, NAME, WELCOME, prepare
from losswire.errors import UnreachableError
from losswire.tensor import Buffer

#: Seconds for which a client may be silent after it was greeted.
SILENT = 5.0

#: Seconds after which gRPC has cancelled a call whose caller is gone.
MOMENT = 0.05

#: Bytes that are waited for before we are woken, if so many are to come: each time costs 50 µs.
WOKEN_FOR = 256 << 10


class Connection:
    """One connection.

    Parameters:
        line: its socket, which does not block.

    Attributes:
        line: the same.
        name: by which a call knows it.
        until: monotonic seconds until which it may be idle.
    """

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.name = secrets.token_bytes(NAME)
        self.until = time.monotonic() + SILENT
        self._repeated = b""
        prepare(line, socket)
        line.send(MAGIC + self.name)

    def repeats(self) -> bool:
        """Whether the client has repeated the name, which is then welcome.

        Raises:
            OSError: it has said something else, or nothing and is gone.
        """
        with contextlib.suppress(BlockingIOError):
            came = self.line.recv(NAME - len(self._repeated))
            self._repeated += came
            if not came or not self.name.startswith(self._repeated):
                raise ConnectionResetError
        if self._repeated != self.name:
            return False
        self.line.send(WELCOME)
        self.until = time.monotonic() + IDLE
        return True

    async def receive(self, into: memoryview) -> None:
        """Fill that with what comes next.

        Raises:
            UnreachableError: not so much comes any more.
        """
        loop = asyncio.get_running_loop()
        while into:
            async with _breaking():
                self._wake_for(min(len(into), WOKEN_FOR))
                count = await loop.sock_recv_into(self.line, into)
                if not count:
                    raise ConnectionResetError
            into = into[count:]

    async def send(self, head: bytes, content: Buffer) -> None:
        """Send these, one after the other.

        Raises:
            UnreachableError: the peer takes no more.
        """
        loop = asyncio.get_running_loop()
        async with _breaking():
            try:
                count = self.line.sendmsg((head, content))
            except BlockingIOError:
                count = 0
            for left in unsent((head, content), count):
                await loop.sock_sendall(self.line, left)

    def given_up(self) -> socket.socket:
        """Its socket, for good."""
        self._wake_for(1)
        return self.line

    def _wake_for(self, count: int) -> None:
        """Be woken when so many bytes are there, and not for less."""
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    @property
    def gone(self) -> bool:
        """Whether the peer has closed it. What has come is of a call that is not let in yet."""
        try:
            return not self.line.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close it. May be called again."""
        self.line.close()


@contextlib.asynccontextmanager
async def _breaking() -> AsyncIterator[None]:
    try:
        yield
    except OSError:
        await asyncio.sleep(MOMENT)  # it may be the caller who is gone
        raise UnreachableError(
            "the direct connection must last for as long as the call; send it again"
        ) from None
