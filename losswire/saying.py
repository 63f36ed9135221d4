"""The messages of a ComputeStream, written without copying tensors.

Each function gives what a message is joined of; messages add up. Tensors are copied
once, as a message is joined, or sent from where they lie.
tests/wire/test_streaming.py compares each with what protobuf makes of it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from losswire import frame, lists, runs
from losswire.bypass import LONGEST
from losswire.frame import Parts, varint
from losswire.runs import fronts
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
    elif runs.may_be_alike(parts):
        front = fronts(_REQUEST, parts.header, tuple(map(len, parts.payloads)))
        return runs.written(head, front, parts.payloads)
    return _entry_of(head, b"\x22", parts)


def calls(first: int, timeout: float | None, some: Sequence[Parts]) -> list[Buffer]:
    """What a message with a list of these calls is joined of; messages add up.

    Parameters:
        first: number of the first; those of the others follow.
        timeout: seconds; None is for ever.
        some: calls with equal headers, and payloads of equal lengths, none of them elsewhere.
    """
    head = lists.head(first, len(some), timeout)
    return _list_of(head, some[0].header, lists.columns(some))


def several(
    first: int, timeout: float | None, some: Sequence[Parts], *, listed: bool
) -> Iterator[tuple[int, list[Buffer]]]:
    """What a message with these calls is joined of, and how many of them each part of it is.

    Parameters:
        first, timeout: as of `calls`.
        some: calls of any kind.
        listed: the server takes lists: those that may be one are.
    """
    for alike in lists.alike(some):
        if listed and len(alike) > 1:
            yield len(alike), calls(first, timeout, alike)
        else:
            for place, parts in enumerate(alike):
                yield 1, call(first + place, timeout, parts)
        first += len(alike)


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


def answer_list(first: int, count: int, header: bytes, columns: Sequence[Buffer]) -> list[Buffer]:
    """The same as one list."""
    return _list_of(lists.head(first, count), header, columns)


def status(number: int, status: bytes) -> list[Buffer]:
    """What a message that says how this call ended is joined of."""
    return _entry(b"\x08" + varint(number), b"\x1a", [status])


def region(region: bytes) -> list[Buffer]:
    """What a message with this serialised Region is joined of."""
    return [b"\x12" + varint(len(region)) + region]


def bypass(name: str, port: int) -> list[Buffer]:
    """What a message with the name of a bypass, and the port of direct connections, is joined of.

    An empty name, and 0, is none. It says, too, that lists of calls are taken.
    """
    named = b"\x1a" + varint(len(name)) + name.encode() if name else b""
    return [named + (b"\x20" + varint(port) if port else b"") + b"\x30\x01"]


def joined() -> list[Buffer]:
    """What a message is joined of which says that a direct connection is the bypass now."""
    return [b"\x28\x01"]


def _list_of(head: bytes, header: bytes, columns: Sequence[Any]) -> list[Buffer]:
    """The same of a list."""
    return lists.flat(_entry_of(head, b"\x22", Parts(header, columns), b"\x3a"))


def _entry_of(head: bytes, tag: bytes, parts: Parts, field: bytes = b"\x0a") -> list[Buffer]:
    """The same of a call or answer. Those that a bypass carries have large payloads at multiples of
    ALIGNMENT.
    """
    written = _entry(head, tag, frame.laid_out(*parts), field)
    if frame.LARGE <= parts.size <= LONGEST:
        # What stands before it is as long as it was, or nearly never.
        written = _entry(head, tag, frame.laid_out(*parts, at=len(written[0])), field)
    return written


def _entry(head: bytes, tag: bytes, inside: list[Buffer], field: bytes = b"\x0a") -> list[Buffer]:
    """A field of a message, of `head` and a field `tag` of what is `inside`."""
    head += tag + varint(length := sum(map(len, inside)))
    return [field + varint(len(head) + length) + head, *inside]
