"""Direct connections: TCP beside gRPC, over which the pieces of large calls come and go.

Whoever connects is told a name that nobody else knows. A call names the connection that its
pieces come over, so who may ask for what, deadlines and errors stay gRPC's matter. Between calls
a connection is idle and costs a descriptor. All of it is on the event loop.
"""

import asyncio
import contextlib
import resource
import socket
import time
import weakref
from collections.abc import Iterator

from lossserver.connection import MOMENT, Connection
from losswire.bypass import LONGEST
from losswire.direct import IDLE
from losswire.errors import NotServedError

#: Idle connections, and those that were only greeted, but no more than a quarter of all descriptors
#: (of which there may be endless many: -1); of more, those that were idle for longest are closed.
_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
MOST_IDLE = min(1024, _DESCRIPTORS // 4) if _DESCRIPTORS > 0 else 1024

#: Share of all bytes in flight that half messages may have of connections that are bypasses of streams.
SHARE = 0.25

#: Seconds after which it is looked who is gone.
LOOK = 5.0


class Direct:
    """All connections, and where they come in.

    Parameters:
        listening: the socket; None if there are to be none.
        most_bytes: of all calls in flight.

    Attributes:
        port: where clients connect; 0 if they cannot.
    """

    def __init__(self, listening: socket.socket | None, most_bytes: int = 0) -> None:
        self._listening = listening
        self.port: int = listening.getsockname()[1] if listening else 0
        # In the order in which they became idle.
        self._idle: dict[bytes, Connection] = {}
        self._most_given_up = int(SHARE * most_bytes) // LONGEST
        self._in_calls = 0
        self._greeted: dict[Connection, None] = {}
        self._given_up: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._sweeping: asyncio.TimerHandle | None = None
        if listening is not None:
            listening.setblocking(False)
        self._listen()

    @contextlib.contextmanager
    def used(self, name: bytes) -> Iterator[Connection | None]:
        """The connection of that name, nobody else's meanwhile; closed if a call goes wrong.

        Parameters:
            name: as a call gives it; empty for none.

        Raises:
            NotServedError: there is none, or it is another call's.
        """
        if not name:
            yield None
            return
        connection = self._idle.pop(name, None)
        if connection is None:
            raise NotServedError("must be one of this server's that is idle", field="direct")
        self._in_calls += 1
        try:
            yield connection
            connection.until = time.monotonic() + IDLE
            self._keep(connection)
        except BaseException:
            connection.close()
            raise
        finally:
            self._in_calls -= 1

    def given_up(self, name: bytes) -> socket.socket | None:
        """The socket of that connection, for good; None if there is none, or too many were given up."""
        if len(self._given_up) >= self._most_given_up or name not in self._idle:
            return None
        line = self._idle.pop(name).given_up()
        self._given_up.add(line)
        return line

    @property
    def count(self) -> int:
        """How many there are, idle or not."""
        return len(self._idle) + len(self._greeted) + self._in_calls + len(self._given_up)

    def close(self) -> None:
        """Accept no more, and close those that are idle."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for connection in list(self._greeted):
            self._hang_up(connection)
        while self._idle:
            self._idle.popitem()[1].close()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _listen(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        assert self._listening is not None  # noqa: S101  (for mypy)
        try:
            line = self._listening.accept()[0]
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is free, and the line would stay readable
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listening)
            loop.call_later(MOMENT, self._listen)
            return
        try:
            line.setblocking(False)
            connection = Connection(line)
        except OSError:  # it has gone again
            line.close()
            return
        if len(self._greeted) + len(self._idle) >= MOST_IDLE and self._greeted:
            self._hang_up(next(iter(self._greeted)))
        self._greeted[connection] = None
        asyncio.get_running_loop().add_reader(line, self._heard, connection)
        self._look_later()

    def _heard(self, connection: Connection) -> None:
        """Hear what one says that was greeted."""
        try:
            if connection.repeats():
                asyncio.get_running_loop().remove_reader(connection.line)
                del self._greeted[connection]
                self._keep(connection)
        except OSError:
            self._hang_up(connection)

    def _hang_up(self, connection: Connection) -> None:
        del self._greeted[connection]
        asyncio.get_running_loop().remove_reader(connection.line)
        connection.close()

    def _keep(self, connection: Connection) -> None:
        if self._listening is None:
            connection.close()
            return
        self._idle[connection.name] = connection
        if len(self._idle) > MOST_IDLE:
            self._idle.pop(next(iter(self._idle))).close()
        self._look_later()

    def _look_later(self) -> None:
        if self._sweeping is None and (self._idle or self._greeted):
            self._sweeping = asyncio.get_running_loop().call_later(LOOK, self._sweep)

    def _sweep(self) -> None:
        """Close those that nobody needs any longer."""
        now = time.monotonic()
        for name, connection in list(self._idle.items()):
            if connection.until < now or connection.gone:
                del self._idle[name]
                connection.close()
        for connection in [one for one in self._greeted if one.until < now]:
            self._hang_up(connection)
        self._sweeping = None
        self._look_later()
