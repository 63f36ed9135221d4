"""A direct connection becomes the bypass of a stream, where the server is on another machine."""

import socket
import threading
import weakref

from lossclient.direct import Directs
from lossclient.line import Line
from lossclient.outgoing import Outgoing
from losswire import saying

#: Seconds within which a server says that a direct connection is the bypass. One that does not know
#: the connection, another behind the same address, says nothing.
WITHIN = 10.0


class Joining:
    """What a stream has to do with direct connections.

    Parameters:
        line: to the server.
        outgoing: of the stream.
    """

    def __init__(self, line: "weakref.ref[Line]", outgoing: Outgoing) -> None:
        self._line = line
        self._outgoing = outgoing
        # Of the bypass, if that is a direct connection.
        self._directs: Directs | None = None
        self._joined = threading.Event()
        self._over = False

    @property
    def used(self) -> bool:
        """Whether the bypass is a direct connection, or was to be."""
        return self._directs is not None

    def connected(self, port: int) -> socket.socket | None:
        """A direct connection that is the bypass; None if there is none."""
        line = self._line()
        if line is None or self._over:
            return None
        try:
            directs = self._directs = line.keep(Directs, Directs)
        except ValueError:  # the client is closed
            return None
        del line  # the client may be forgotten meanwhile
        connection = directs.connected(port)
        if connection is None:
            return None
        self._outgoing.put(saying.direct(connection.name))
        if self._joined.wait(WITHIN) and not self._over:
            return connection.given_up()
        connection.close()
        if not self._over:
            directs.failed("the server does not know the connection")
        return None

    def joined(self) -> None:
        """The server has said that it is."""
        self._joined.set()

    def over(self) -> None:
        """The stream has ended."""
        self._over = True
        self._joined.set()  # or never

    def failed(self, why: str) -> None:
        """Use none for a while, if one was used here."""
        if self._directs is not None:
            self._directs.failed(why)
