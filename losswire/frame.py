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

from collections.abc import Sequence
from typing import NamedTuple

from losswire.errors import MessageError
from losswire.tensor import Buffer

_HEADER = 1 << 3 | 2
_PAYLOAD = 2 << 3 | 2
_ELSEWHERE = 3 << 3 | 2
_FIXED = {1: 8, 5: 4}  # wire type → length, for fields of a later version that are passed over

#: Fields of one message, payloads nearly all of them; each costs an object before anything is
#: known of it. And bytes of a header, which becomes some fifty times as much when it is parsed.
MAX_FIELDS = 4096
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
    written: list[Buffer] = [bytes((_HEADER,)) + varint(len(header)), header]
    for tag, some in ((_PAYLOAD, payloads), (_ELSEWHERE, elsewhere)):
        for one in some:
            written.append(bytes((tag,)) + varint(len(one)))
            written.append(one)
    return b"".join(written)


def read(message: Buffer) -> Parts:
    """The serialised header, and a view of each payload.

    Raises:
        MessageError: the bytes end too early, are not protobuf, or are too many
            fields or too large a header.
    """
    view = memoryview(message)
    found: dict[int, list[memoryview]] = {_HEADER: [], _PAYLOAD: [], _ELSEWHERE: []}
    at = fields = 0
    while at < len(view):
        fields += 1
        if fields > MAX_FIELDS:
            raise MessageError(f"a message must have at most {MAX_FIELDS} fields and payloads")
        tag, at = read_varint(view, at)
        kind = tag & 7
        if kind == 0:
            _, at = read_varint(view, at)
            continue
        if kind == 2:
            length, at = read_varint(view, at)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise MessageError("a message must be protobuf", given=f"wire type {kind} at byte {at}")
        if length > len(view) - at:
            raise MessageError(
                "a message must be whole", given=f"{len(view) - at} of {length} bytes of a field"
            )
        if tag in found:
            found[tag].append(view[at : at + length])
        at += length
    headers = found[_HEADER]
    size = sum(map(len, headers))
    if size > MAX_HEADER:
        raise MessageError(
            f"must have at most {MAX_HEADER} bytes; arrays go into payloads",
            field="header",
            given=f"{size} bytes",
        )
    # A second header is merged into the first, as protobuf has it.
    return Parts(b"".join(headers), found[_PAYLOAD], found[_ELSEWHERE])


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number as protobuf writes it, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise MessageError("a message must be whole", given=f"an end within byte {at}")
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MessageError("a message must be protobuf", given=f"a varint over 10 bytes before {at}")
