"""Direct connections: TCP to a server that has a port for them, past gRPC.

    Directs     those to one server, kept with the line: idle, to be used by a call each
    Connection  one

Where none is to be had everything goes by gRPC.
"""

import logging
import os
import socket
import struct
import threading
import time
import weakref
from contextlib import suppress

from google.protobuf.message import DecodeError

from lossclient.line import FOR_EVER, Line
from losswire import direct
from losswire.bypass import unsent
from losswire.errors import LossError, MessageError
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb

log = logging.getLogger("lossclient")

#: Seconds that connecting may take, and after which it is tried again where it failed; twice as
#: long each time.
CONNECTING = 1.0
FIRST_REST = 10.0
LONGEST_REST = 3600.0


class Connection:
    """One connection to a server.

    Parameters:
        address: host and port.
        timeout: seconds that it may take.

    Attributes:
        line: its socket.
        name: by which the server knows it.
        came: something has come since `fails_after`.
        until: monotonic seconds until which it may be idle.

    Raises:
        OSError: nobody is there.
        MessageError: it is not the server that was meant.
    """

    def __init__(self, address: tuple[str, int], timeout: float) -> None:
        self._pid = os.getpid()
        self.came = False
        self.until = 0.0
        self.line = socket.create_connection(address, timeout)
        try:
            direct.prepare(self.line, socket)
            self.name = direct.greeted(self.line.recv(direct.GREETING, socket.MSG_WAITALL))
            # What is said before anything depends on it shows that both directions are open.
            self.line.sendall(self.name)
            if self.line.recv(len(direct.WELCOME)) != direct.WELCOME:
                raise MessageError("a direct connection must be welcomed")  # noqa: TRY301
            self.line.settimeout(None)
        except BaseException:
            self.line.close()
            raise
        self._forgotten = weakref.finalize(self, self.line.close)

    def given_up(self) -> socket.socket:
        """Its socket, for good."""
        self._forgotten.detach()
        return self.line

    def fails_after(self, timeout: float | None) -> None:
        """Have `receive` fail if nothing comes for so many seconds; None is never."""
        self.came = False
        seconds = 0.0 if timeout is None else min(timeout, FOR_EVER)
        value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))  # a timeval
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def send(self, payload: int, content: Buffer) -> None:
        """Send a piece.

        Raises:
            OSError: it has ended.
        """
        whole = direct.head(payload, len(content)), content
        for left in unsent(whole, self.line.sendmsg(whole)):
            self.line.sendall(left)

    def head(self) -> tuple[int, int]:
        """The number of the payload of the next piece, and the piece's length.

        Raises:
            OSError: it has ended.
        """
        written = bytearray(direct.HEAD)
        self.receive(memoryview(written))
        self.came = True
        return direct.read_head(written)

    def receive(self, into: memoryview) -> None:
        """Fill that with what comes next.

        Raises:
            OSError: it has ended.
        """
        while into:
            count = self.line.recv_into(into, 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionResetError
            into = into[count:]

    @property
    def idle(self) -> bool:
        """Whether it is open, and nothing has come that nobody has asked for."""
        try:
            self.line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def end(self) -> None:
        """Have whoever sends or receives fail. From any thread; a forked child leaves it to its parent."""
        if self._pid == os.getpid():
            with suppress(OSError):
                self.line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it. Nobody sends or receives."""
        self.line.close()


class Directs:
    """The connections to one server. Any thread may use it.

    Parameters:
        line: to the server.
    """

    def __init__(self, line: Line) -> None:
        self._host = line.host
        self._target = line.target
        self._lock = threading.Lock()
        # The one that was used last comes last.
        self._idle: list[Connection] = []
        self._port = 0
        self._rests_until = 0.0
        self._rest = FIRST_REST
        self._closed = False

    def take(self, line: Line, timeout: float | None) -> Connection | None:
        """A connection for one call; None if there is none to be had.

        Parameters:
            line: the same.
            timeout: seconds that the call has; None is for ever.
        """
        if self.resting:
            return None
        while (found := self._pop()) is not None:
            if found.idle:
                return found
            # The server has closed it, or is another now.
            found.close()
            self._port = 0
        # Most of the time is the call's.
        within = CONNECTING if timeout is None else min(timeout / 4, CONNECTING)
        if not self._port:
            try:
                reply = line.call("GetServer", b"", within)
                self._port = pb.GetServerResponse.FromString(reply).direct_port
            except (LossError, DecodeError) as error:
                self.failed(str(error))
                return None
        return self.connected(self._port, within)

    def connected(self, port: int, timeout: float = CONNECTING) -> Connection | None:
        """A new connection to that port of the server; None if there is none to be had.

        Parameters:
            port: 0 is none.
            timeout: seconds that it may take.
        """
        if self.resting:
            return None
        try:
            if not port:
                raise ConnectionError("it has no port for direct connections")
            return Connection((self._host, port), timeout)
        except (OSError, OverflowError, MessageError) as error:
            self.failed(str(error))
            return None

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose call has ended well, for as long as the server does."""
        now = time.monotonic()
        connection.until = now + direct.IDLE
        with self._lock:
            self._rest = FIRST_REST
            old = [one for one in self._idle if self._closed or one.until < now]
            self._idle = [one for one in self._idle if one not in old]
            (old if self._closed else self._idle).append(connection)
        for one in old:
            one.close()

    def failed(self, why: str) -> None:
        """Do without for a while. Those that fail together count once."""
        with self._lock:
            if self.resting:
                return
            self._port = 0
            self._rests_until = time.monotonic() + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
        self._close_idle()
        log.info("calls to %s go by gRPC for a while: %s", self._target, why)

    @property
    def resting(self) -> bool:
        """Whether it is no use to ask for a connection now."""
        return not self._host or time.monotonic() < self._rests_until

    def _pop(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def close(self) -> None:
        """Close those that are idle, and keep none any more."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while (found := self._pop()) is not None:
            found.close()
