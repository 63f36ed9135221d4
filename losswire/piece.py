"""Pieces of a large call or answer, as bytes: plain protobuf on the wire, cut and joined by hand.

ComputeLargeRequest and ComputeLargeResponse have the outline of frame.py, but
that its `payloads` are Pieces, one a message: so `frame.read` reads them.
"""

from typing import NamedTuple

from losswire import frame
from losswire.errors import MessageError
from losswire.frame import ALIGNMENT, longer, varint
from losswire.tensor import Buffer

#: Bytes of a piece, at least and at most; and how many of them make a payload. A piece costs both ends
#: about a millisecond of Python, whatever its size; but nothing is computed before the first is there.
LEAST = 1 << 20
MOST = 8 << 20
PIECES = 16

#: Bytes that a piece may have. What a call in pieces holds is counted in pieces.
LARGEST = 16 << 20

#: Bytes of a piece that every peer takes: gRPC's own limit, where nobody said another, is 4 MiB.
TAKEN = (4 << 20) - (1 << 16)

_PIECE = 2 << 3 | 2  # of the message
_PAYLOAD, _OFFSET, _CONTENT = 1 << 3, 2 << 3, 3 << 3 | 2  # of the piece


def length(size: int, most: int = MOST) -> int:
    """About how long to make the pieces of a payload of so many bytes."""
    return min(max(size // PIECES, LEAST), most)


class Piece(NamedTuple):
    """A piece of a payload.

    Attributes:
        payload: the number of the payload.
        offset: where in the payload it begins, in bytes.
        content: the bytes.
    """

    payload: int
    offset: int
    content: Buffer


def write(payload: int, offset: int, content: Buffer) -> bytes:
    """The message with that piece, of which the content is copied once.

    In the message, and so in whatever memory receives it, the content begins at a
    multiple of 8: whoever computes with it need not copy it.
    """
    begin = b""
    for more in range(ALIGNMENT):
        begin = _begin(payload, offset, len(content), more)
        if not len(begin) % ALIGNMENT:
            break
    return b"".join((begin, content))


def _begin(payload: int, offset: int, size: int, more: int) -> bytes:
    """All before the content, and so many bytes more: a varint may have some that say nothing."""
    numbers = bytes((_PAYLOAD,)) + longer(varint(payload), more - more // 2)
    numbers += bytes((_OFFSET,)) + longer(varint(offset), more // 2)
    numbers += bytes((_CONTENT,)) + varint(size)
    return bytes((_PIECE,)) + varint(len(numbers) + size) + numbers


def read(message: Buffer) -> Piece:
    """The piece in a message, its content a view.

    Raises:
        MessageError: there is none, or something else.
    """
    parts = frame.read(message)
    if len(parts.payloads) != 1 or parts.header or parts.elsewhere:
        raise MessageError("a message after the header must have one piece")
    numbers = {_PAYLOAD: 0, _OFFSET: 0}
    content = memoryview(b"")
    for tag, value in frame.fields(parts.payloads[0], frame.MAX_FIELDS_WITHIN):
        if isinstance(value, int):
            numbers[tag] = value
        elif tag == _CONTENT:
            content = value
    return Piece(numbers[_PAYLOAD], numbers[_OFFSET], content)
