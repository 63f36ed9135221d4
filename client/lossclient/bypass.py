"""The client's end of a bypass: a Unix socket to a server on the same machine."""

import errno
import os
import select
import socket
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress

from losswire import bypass, offer
from losswire.tensor import Buffer


class Bypass:
    """A bypass that a server has offered.

    Parameters:
        name: under which it did.

    Raises:
        OSError: it is not to be had.
    """

    def __init__(self, name: str) -> None:
        self._pid = os.getpid()
        descriptor = offer.taken(name)
        try:
            self._socket = socket.socket(fileno=descriptor)
        except OSError:  # it is none
            os.close(descriptor)
            raise
        self._socket.setblocking(True)
        # In a forked child, too, which has a copy of it and nobody to close it.
        weakref.finalize(self, self._socket.close)

    def messages(self) -> Iterator[Buffer]:
        """What the server says, until it hangs up.

        Raises:
            MessageTooLargeError: it is no message.
        """
        incoming = bypass.Incoming()
        try:
            while count := self._socket.recv_into(incoming.room()):
                yield from incoming.came(count)
        except OSError:
            return

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
        with suppress(ValueError):  # it is closed
            waiting = select.poll()
            waiting.register(self._socket, select.POLLOUT)
            waiting.poll(1000)

    def end(self) -> None:
        """Hang up. A forked child leaves that to its parent."""
        if self._pid == os.getpid():
            with suppress(OSError):  # the server has
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of it, when nobody is about to use it."""
        self._socket.close()
