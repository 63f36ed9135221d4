"""The messages of a ComputeStream, written without copying tensors.

Each function gives what a message is joined of; messages add up. Tensors are copied
once, as a message is joined, or sent from where they lie.
tests/wire/test_streaming.py compares each with what protobuf makes of it.
"""

import struct
from collections.abc import Iterable, Sequence

from losswire import frame, runs
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
    elif parts.payloads and not parts.elsewhere and len(parts.header) <= MOST_HEADER:
        front = fronts(_REQUEST, parts.header, tuple(map(len, parts.payloads)))
        return runs.written(head, front, parts.payloads)
    return _entry(head, b"\x22", frame.laid_out(*parts))


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


def answer(number: int, response: Parts) -> list[Buffer]:
    """What a message with this answer is joined of; messages add up."""
    return _entry(b"\x08" + varint(number), b"\x12", frame.laid_out(*response))


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


def bypass(name: str) -> list[Buffer]:
    """What a message with the name of a bypass is joined of."""
    return [b"\x1a" + varint(len(name)) + name.encode()]


def _entry(head: bytes, tag: bytes, inside: list[Buffer]) -> list[Buffer]:
    """Field 1 of a message of `head` and a field `tag` of what is `inside`."""
    head += tag + varint(length := sum(map(len, inside)))
    return [b"\x0a" + varint(len(head) + length) + head, *inside]
