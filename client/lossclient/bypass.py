"""The client's end of a bypass: a Unix socket to a server on the same machine, or a direct connection."""

import errno
import os
import select
import socket
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress

from losswire import bypass, offer
from losswire.tensor import Buffer


def offered(name: str) -> socket.socket:
    """The socket that a server of this machine offers under that name.

    Raises:
        OSError: it is not to be had.
    """
    descriptor = offer.taken(name)
    try:
        return socket.socket(fileno=descriptor)
    except OSError:  # it is none
        os.close(descriptor)
        raise


class Bypass:
    """A bypass that a server has offered.

    Parameters:
        line: our end of it.

    Attributes:
        heard: monotonic seconds at which something came last.
    """

    def __init__(self, line: socket.socket) -> None:
        self._pid = os.getpid()
        self.heard = time.monotonic()
        self._socket = line
        self._socket.setblocking(True)
        # In a forked child, too, which has a copy of it and nobody to close it.
        weakref.finalize(self, self._socket.close)

    def receive(self, room: memoryview) -> int | None:
        """How many bytes came into this room; 0 if the server has hung up, None if nothing is there."""
        try:
            count = self._socket.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self.heard = time.monotonic()
        return count

    def send(self, buffers: Sequence[Buffer]) -> list[Buffer] | None:
        """Send what the line takes of these now, and what is left; None if it takes nothing.

        Raises:
            OSError: the server has hung up, or the bypass is the parent's, of a forked child.
        """
        if self._pid != os.getpid():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        try:
            count = self._socket.sendmsg(buffers[: bypass.MOST_BUFFERS], (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return bypass.unsent(buffers, count)

    def wait(self) -> None:
        """Wait until the line takes more, or the end; a second at most."""
        self._poll(select.POLLOUT, 1000)

    def listen(self) -> None:
        """Wait until something comes, or the end."""
        self._poll(select.POLLIN, None)

    def _poll(self, events: int, milliseconds: int | None) -> None:
        with suppress(ValueError):  # it is closed
            waiting = select.poll()
            waiting.register(self._socket, events)
            waiting.poll(milliseconds)

    def end(self) -> None:
        """Hang up. A forked child leaves that to its parent."""
        if self._pid == os.getpid():
            with suppress(OSError):  # the server has
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it, when nobody is about to use it."""
        self._socket.close()
