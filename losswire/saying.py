"""The messages of a ComputeStream, written without copying tensors.

Each function gives what a message is joined of; messages add up. Tensors are copied
once, as a message is joined, or sent from where they lie.
tests/wire/test_streaming.py compares each with what protobuf makes of it.
"""

import struct
from collections.abc import Iterable, Sequence

from losswire import frame, runs
from losswire.bypass import LONGEST
from losswire.frame import Parts, varint
from losswire.runs import MOST_HEADER, fronts
from losswire.tensor import Buffer

_DOUBLE = struct.Struct("<d")

# Of StreamCall and of StreamAnswer.
_REQUEST, _RESPONSE = 4 << 3 | 2, 2 << 3 | 2


def call(number: int, timeout: float | None, parts: Parts, answer: bytes = b"") -> list[Buffer]:
    """What a message with this call is joined of; messages add up."""
    head = b"\x08" + varint(number)
    if timeout is not None:
        head += b"\x11" + _DOUBLE.pack(timeout)
    if answer:
        head += b"\x1a" + varint(len(answer)) + answer
    elif _may_be_of_a_run(parts):
        front = fronts(_REQUEST, parts.header, tuple(map(len, parts.payloads)))
        return runs.written(head, front, parts.payloads)
    return _entry_of(head, b"\x22", parts)


def cancelled(numbers: Iterable[int]) -> list[Buffer]:
    """What a message that gives up these calls is joined of."""
    packed = b"".join(map(varint, numbers))
    return [b"\x12" + varint(len(packed)) + packed]


def opened(region: bytes) -> list[Buffer]:
    """What a message with this serialised OpenRegion is joined of."""
    return [b"\x1a" + varint(len(region)) + region]


def closed(region: int) -> list[Buffer]:
    """What a message that closes this region is joined of."""
    return [b"\x20" + varint(region)]


def wish() -> list[Buffer]:
    """What a message that asks for a bypass is joined of."""
    return [b"\x28\x01"]


def direct(name: bytes) -> list[Buffer]:
    """What a message that names the direct connection which is to be the bypass is joined of."""
    return [b"\x32" + varint(len(name)) + name]


def answer(number: int, response: Parts) -> list[Buffer]:
    """What a message with this answer is joined of; messages add up."""
    return _entry_of(b"\x08" + varint(number), b"\x12", response)


def answers(numbers: Sequence[int], header: bytes, columns: Sequence[memoryview]) -> list[Buffer]:
    """The same of several, whose responses have one header: for each payload those of all of them."""
    each = [len(column) // len(numbers) for column in columns]
    front = fronts(_RESPONSE, header, tuple(each))
    out: list[Buffer] = []
    for place, number in enumerate(numbers):
        own = [column[place * size :][:size] for column, size in zip(columns, each, strict=True)]
        out += runs.written(b"\x08" + varint(number), front, own)
    return out


def status(number: int, status: bytes) -> list[Buffer]:
    """What a message that says how this call ended is joined of."""
    return _entry(b"\x08" + varint(number), b"\x1a", [status])


def region(region: bytes) -> list[Buffer]:
    """What a message with this serialised Region is joined of."""
    return [b"\x12" + varint(len(region)) + region]


def bypass(name: str, port: int) -> list[Buffer]:
    """What a message with the name of a bypass, and the port of direct connections, is joined of.

    An empty name, and 0, is none.
    """
    named = b"\x1a" + varint(len(name)) + name.encode() if name else b""
    return [named + (b"\x20" + varint(port) if port else b"")]


def joined() -> list[Buffer]:
    """What a message is joined of which says that a direct connection is the bypass now."""
    return [b"\x28\x01"]


def _may_be_of_a_run(parts: Parts) -> bool:
    """Whether calls like this are found to be alike; larger ones gain nothing by it."""
    few = parts.size < frame.LARGE and len(parts.header) <= MOST_HEADER
    return few and bool(parts.payloads) and not parts.elsewhere


def _entry_of(head: bytes, tag: bytes, parts: Parts) -> list[Buffer]:
    """The same of a call or answer. Those that a bypass carries have large payloads at multiples of
    ALIGNMENT.
    """
    written = _entry(head, tag, frame.laid_out(*parts))
    if frame.LARGE <= parts.size <= LONGEST:
        # What stands before it is as long as it was, or nearly never.
        written = _entry(head, tag, frame.laid_out(*parts, at=len(written[0])))
    return written


def _entry(head: bytes, tag: bytes, inside: list[Buffer]) -> list[Buffer]:
    """Field 1 of a message of `head` and a field `tag` of what is `inside`."""
    head += tag + varint(length := sum(map(len, inside)))
    return [b"\x0a" + varint(len(head) + length) + head, *inside]
