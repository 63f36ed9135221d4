"""Messages over a Unix socket: each after its length. No sockets here.

What a small call costs is mostly gRPC: two threads on each side, HTTP/2's frames,
and the copies between them. Where client and server are on one machine a socket
does without (docs/decisions/0017-a-bypass.md).
"""

import os
import struct
from collections.abc import Sequence

import numpy as np

from losswire.errors import MessageTooLargeError
from losswire.tensor import Buffer

#: Bytes of a message at most; longer ones go by gRPC. So much a peer may have us hold that sends a
#: length and not the message.
LONGEST = 4 << 20

#: Bytes that are received at a time: what fits is received together with its neighbours.
FRONT = 256 << 10

#: Buffers that the kernel takes at a time.
MOST_BUFFERS = os.sysconf("SC_IOV_MAX")

_LENGTH = struct.Struct("<Q")


def framed(written: Sequence[Buffer]) -> list[Buffer]:
    """What is sent of a message that is joined of these."""
    return [_LENGTH.pack(sum(map(len, written))), *written]


def unsent(buffers: Sequence[Buffer], count: int) -> list[Buffer]:
    """What is left of these when so many bytes were sent."""
    for place, one in enumerate(buffers):
        if count < len(one):
            return [memoryview(one)[count:], *buffers[place + 1 :]]
        count -= len(one)
    return []


class Incoming:
    """Makes messages of bytes as they come."""

    def __init__(self) -> None:
        self._front = memoryview(bytearray(FRONT))
        self._held = 0
        # One that does not fit, of which so much is there.
        self._long: memoryview | None = None
        self._there = 0

    @property
    def amid(self) -> bool:
        """Whether the beginning of a message is there, and not all of it."""
        return self._held > 0 or self._long is not None

    def room(self) -> memoryview:
        """Where the next bytes are to be put; it is not empty."""
        if self._long is not None:
            return self._long[self._there :]
        return self._front[self._held :]

    def came(self, count: int) -> list[Buffer]:
        """The messages that are whole, now that so many bytes more are there; they are the caller's.

        Raises:
            MessageTooLargeError: a length is above LONGEST.
        """
        if self._long is not None:
            self._there += count
            if self._there < len(self._long):
                return []
            whole, self._long = self._long, None
            return [whole]
        self._held += count
        found: list[Buffer] = []
        at = 0
        while self._held - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._front, at)
            if length > LONGEST:
                raise MessageTooLargeError(
                    f"a message over a bypass must have at most {LONGEST} bytes",
                    given=f"{length} bytes",
                )
            start, end = at + _LENGTH.size, at + _LENGTH.size + length
            if end - at > FRONT:
                self._begin_long(length, self._front[start : self._held])
                at = self._held
            elif end > self._held:
                break
            else:
                found.append(bytes(self._front[start:end]))
                at = end
        self._held -= at
        self._front[: self._held] = self._front[at : at + self._held]
        return found

    def _begin_long(self, length: int, there: memoryview) -> None:
        # Memory that is there when it is written to, and not before.
        self._long = np.empty(length, np.uint8).data
        self._there = len(there)
        self._long[: self._there] = there
