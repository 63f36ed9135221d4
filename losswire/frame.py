"""A message as bytes without copying tensors: plain protobuf on the wire, cut and joined by hand.

ComputeRequest and ComputeResponse have the same outline:

    field 1   header, a message
    field 2   payloads, bytes, any number
    field 3   elsewhere, messages: where the other payloads are

Python's protobuf copies each payload when it is set, when the message is
serialised, when it is parsed and when it is read. Here writing is one join and
reading gives views. Anything else that writes or reads the message with an
ordinary protobuf library meets the same bytes (tests/wire/test_frame.py).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from losswire.errors import MessageError
from losswire.tensor import Buffer

#: Bytes of which the place of a large payload in its message is a multiple: so it can be computed
#: with where it lies.
ALIGNMENT = 8
LARGE = 1 << 18

_HEADER = 1 << 3 | 2
_PAYLOAD = 2 << 3 | 2
_ELSEWHERE = 3 << 3 | 2
_HEADER_TAG = bytes((_HEADER,))
_PAYLOAD_TAG = bytes((_PAYLOAD,))
_ELSEWHERE_TAG = bytes((_ELSEWHERE,))

# Wire types: of fixed length, with that; and those that begin with a varint.
_FIXED = {1: 8, 5: 4}
_COUNTED = {0, 2}

#: Fields of one message, payloads nearly all of them; each costs an object before anything is
#: known of it. Of a message within one, which has a handful: thousands of them with as many fields
#: each would take seconds. And bytes of a header, which becomes some fifty times as much when it is parsed.
MAX_FIELDS = 4096
MAX_FIELDS_WITHIN = 64
MAX_HEADER = 1 << 20


class Parts(NamedTuple):
    """A call or an answer: what every way of sending one is given, and gives.

    Attributes:
        header: serialised.
        payloads: the tensors' bytes.
        elsewhere: of each payload that is not among these, and numbered after them, a serialised
            Elsewhere.
    """

    header: bytes
    payloads: Sequence[Buffer]
    elsewhere: Sequence[Buffer] = ()

    @property
    def size(self) -> int:
        """Bytes of all that is here."""
        return len(self.header) + sum(map(len, self.payloads))


def write(header: bytes, payloads: Sequence[Buffer], elsewhere: Sequence[Buffer] = ()) -> bytes:
    """The message made of these parts, copied once each."""
    return b"".join(laid_out(header, payloads, elsewhere))


def laid_out(
    header: bytes,
    payloads: Sequence[Buffer],
    elsewhere: Sequence[Buffer] = (),
    at: int | None = None,
) -> list[Buffer]:
    """What the message is joined of.

    Parameters:
        header, payloads, elsewhere: as of Parts.
        at: if it begins so many bytes after a multiple of ALIGNMENT, its large payloads lie at such.
    """
    written: list[Buffer] = [_HEADER_TAG + varint(len(header)), header]
    aligned, at = at is not None, (at or 0) + sum(map(len, written))
    for payload in payloads:
        before = _PAYLOAD_TAG + varint(len(payload))
        if aligned and len(payload) >= LARGE:
            before = _aligning(len(payload), -(at + len(before)) % ALIGNMENT)
        written.append(before)
        written.append(payload)
        at += len(before) + len(payload)
    for place in elsewhere:
        written.append(_ELSEWHERE_TAG + varint(len(place)))
        written.append(place)
    return written


def _aligning(size: int, more: int) -> bytes:
    """What stands before a payload of that size, and so many bytes more that say nothing.

    Of a size from 2 ** 28 on protobuf would not read a longer number.
    """
    # A header is merged into the one before it, and this one is empty.
    return (_HEADER_TAG + b"\x00") * (more // 2) + _PAYLOAD_TAG + longer(varint(size), more % 2)


def read(message: Buffer, most: int = MAX_FIELDS) -> Parts:
    """The serialised header, and a view of each payload, of at most so many fields.

    Raises:
        MessageError: the bytes end too early, are not protobuf, or are too many
            fields or too large a header.
    """
    headers: list[Buffer] = []
    payloads: list[Buffer] = []
    elsewhere: list[Buffer] = []
    found = {_HEADER: headers, _PAYLOAD: payloads, _ELSEWHERE: elsewhere}
    for tag, value in fields(message, most):
        if (into := found.get(tag)) is not None and not isinstance(value, int):
            into.append(value)
    size = sum(map(len, headers))
    if size > MAX_HEADER:
        raise MessageError(
            f"must have at most {MAX_HEADER} bytes; arrays go into payloads",
            field="header",
            given=f"{size} bytes",
        )
    # A second header is merged into the first, as protobuf has it.
    return Parts(b"".join(headers), payloads, elsewhere)


def fields(message: Buffer, most: int = MAX_FIELDS) -> Iterator[tuple[int, memoryview | int]]:
    """Tag and value of each field of a message: a number of a varint, else a view of the bytes.

    Raises:
        MessageError: the bytes end too early, are not protobuf, or are too many fields.
    """
    view = memoryview(message)
    at = 0
    for _ in range(most):
        if at == len(view):
            return
        tag, value, at = field_at(view, at)
        yield tag, value
    if at < len(view):
        raise MessageError(f"a message must have at most {most} fields and payloads")


def field_at(view: memoryview, at: int) -> tuple[int, memoryview | int, int]:
    """Tag and value of the field that begins there, and where it ends.

    Raises:
        MessageError: the bytes end too early, or are not protobuf.
    """
    tag, at = read_varint(view, at)
    kind = tag & 7
    length = _FIXED.get(kind)
    if length is None:
        if kind not in _COUNTED:
            raise MessageError("a message must be protobuf", given=f"wire type {kind} at byte {at}")
        length, at = read_varint(view, at)
        if kind == 0:
            return tag, length, at
    end = at + length
    if end > len(view):
        given = f"{len(view) - at} of {length} bytes of a field"
        raise MessageError("a message must be whole", given=given)
    return tag, view[at:end], end


def longer(number: bytes, more: int) -> bytes:
    """A number as protobuf writes it, with so many bytes more that say nothing."""
    if not more:
        return number
    return number[:-1] + bytes((number[-1] | 0x80, *[0x80] * (more - 1), 0))


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number as protobuf writes it, and where it ends."""
    value = shift = 0
    try:
        while shift < 70:
            byte = view[at]
            at += 1
            if byte < 0x80:
                return value | byte << shift, at
            value |= (byte & 0x7F) << shift
            shift += 7
    except IndexError:
        raise MessageError("a message must be whole", given=f"an end within byte {at}") from None
    raise MessageError("a message must be protobuf", given=f"a varint over 10 bytes before {at}")
