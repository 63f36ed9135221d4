"""Pieces over a direct connection: TCP, without gRPC. No sockets here.

gRPC moves a piece through HTTP/2's frames, several copies and two threads a side. A bare
connection takes a third of the time for the same bytes (docs/decisions/0018-direct-connections.md).

    greeting    32 bytes, of the server: MAGIC, and the connection's name; then the name, of the
                client; then WELCOME, of the server
    piece       16 bytes, the payload's number and the piece's length; then the piece
    end         of an answer: as a piece of the payload END that has no bytes

Numbers are little-endian. A piece begins where that before it of the same payload ended. The
headers of call and answer are gRPC's, each the only message of its direction.
"""

import struct
from types import ModuleType
from typing import Any

from losswire import frame
from losswire.errors import MessageError
from losswire.tensor import Buffer

MAGIC = b"losswire.direct1"
NAME = 16
GREETING = len(MAGIC) + NAME
WELCOME = b"\1"

#: Seconds for which one may be idle.
IDLE = 60.0

#: Instead of a payload's number.
END = (1 << 64) - 1

#: What a connection is told. Of a peer whose machine is gone nobody hears otherwise; and a router on
#: the way forgets a connection that says nothing. Seconds, and how often.
OPTIONS = {
    ("SOL_SOCKET", "SO_KEEPALIVE"): 1,
    ("IPPROTO_TCP", "TCP_NODELAY"): 1,
    ("IPPROTO_TCP", "TCP_KEEPIDLE"): 10,
    ("IPPROTO_TCP", "TCP_KEEPINTVL"): 5,
    ("IPPROTO_TCP", "TCP_KEEPCNT"): 4,
}

_HEAD = struct.Struct("<QQ")
HEAD = _HEAD.size

_DIRECT = 4 << 3 | 2  # of a ComputeLargeRequest


def prepare(line: Any, socket: ModuleType) -> None:
    """Set a connection's options, those that this system has.

    Parameters:
        line: a socket.
        socket: Python's module of that name.
    """
    for (level, option), value in OPTIONS.items():
        if hasattr(socket, option):
            line.setsockopt(getattr(socket, level), getattr(socket, option), value)


def greeted(greeting: bytes) -> bytes:
    """The name of a connection that began with this greeting.

    Raises:
        MessageError: it is none: another service is there.
    """
    if len(greeting) != GREETING or not greeting.startswith(MAGIC):
        raise MessageError("a direct connection must begin with its greeting")
    return greeting[len(MAGIC) :]


def head(payload: int, length: int) -> bytes:
    """What stands before a piece of so many bytes."""
    return _HEAD.pack(payload, length)


def read_head(written: bytearray) -> tuple[int, int]:
    """The number of a piece's payload, and the piece's length."""
    payload, length = _HEAD.unpack(written)
    return payload, length


def named(name: bytes) -> bytes:
    """What is appended to a call's first message if the rest goes over the connection of that name."""
    return frame.varint(_DIRECT) + frame.varint(len(name)) + name if name else b""


def name_in(message: Buffer) -> bytes:
    """The name of the connection over which the rest of a call goes; empty if there is none.

    Raises:
        MessageError: that is no name.
    """
    found = b""
    for tag, value in frame.fields(message):
        if tag == _DIRECT and not isinstance(value, int):
            found = bytes(value[: NAME + 1])
    if len(found) not in (0, NAME):
        raise MessageError(f"must have {NAME} bytes", field="direct", given=f"{len(found)} or more")
    return found
