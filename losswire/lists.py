"""Lists of calls, or of answers, that differ in their tensors' numbers alone: one message for all.

What is said of each is said once, and the tensors of all lie side by side: to write, to
read and to compute sixty costs little more than one. Who does not write lists, as a
plain protobuf client may not, loses nothing but time (runs.py).
"""

import itertools
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from losswire import frame
from losswire.errors import MessageError
from losswire.frame import MAX_FIELDS_WITHIN, Parts, fields, varint
from losswire.runs import MOST, MOST_HEADER, MOST_PAYLOADS, Run, may_be_alike
from losswire.tensor import Buffer

# Of CallList and of AnswerList.
_FIRST, _COUNT = 1 << 3, 2 << 3
_TIMEOUT, _PARTS = 3 << 3 | 1, 4 << 3 | 2

#: Fields of a list's request or response: a header, its payloads, and what aligns them. Lists of one
#: message. A message is read in one go, and meanwhile nothing else is done.
MAX_FIELDS_INSIDE = 8 * MOST_PAYLOADS
MAX_LISTS = 256

#: Bytes of one at most, and of what is added to a message: the server begins with the first the sooner.
TOGETHER = 2 << 20

_DOUBLE = struct.Struct("<d")
_64_BITS = 2**64 - 1


def read(message: memoryview) -> Run:
    """A serialised CallList or AnswerList.

    Raises:
        MessageError: it is none, or has too many calls, or none.
    """
    first = count = 0
    timeout: float | None = None
    inside: list[Buffer] = []
    for tag, value in fields(message, MAX_FIELDS_WITHIN):
        if isinstance(value, int):
            first = value & _64_BITS if tag == _FIRST else first
            count = value if tag == _COUNT else count
        elif tag == _TIMEOUT:
            (timeout,) = _DOUBLE.unpack(value)
        elif tag == _PARTS:
            inside.append(value)
    if not 0 < count <= MOST:
        raise MessageError(f"must be from 1 to {MOST}", field="lists.count", given=count)
    if first + count > _64_BITS + 1:
        raise MessageError("ids must fit 64 bits", field="lists.first", given=first)
    # Two serialised messages in a row are one, merged, as protobuf has it of a field sent twice.
    parts = frame.read(inside[0] if len(inside) == 1 else b"".join(inside), MAX_FIELDS_INSIDE)
    _check(parts)
    return Run(
        ids=range(first, first + count),
        timeout=timeout,
        header=parts.header,
        payloads=[_rows(payload, count) for payload in parts.payloads],
        listed=True,
    )


def _check(parts: Parts) -> None:
    """Refuse what would be much for each of its calls."""
    if parts.elsewhere:
        raise MessageError("tensors of a list must be in its message", field="lists")
    if not fits(parts.header, parts.payloads):
        raise MessageError(
            f"a list must have at most {MOST_PAYLOADS} payloads, and {MOST_HEADER} bytes of header",
            field="lists",
            given=f"{len(parts.payloads)} and {len(parts.header)}",
        )


def fits(header: bytes, payloads: Sequence[Buffer]) -> bool:
    """Whether these may be a list's."""
    return len(payloads) <= MOST_PAYLOADS and len(header) <= MOST_HEADER


def _rows(payload: Buffer, count: int) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    if len(payload) % count:
        raise MessageError(
            f"a payload of {count} calls must have a multiple of {count} bytes",
            field="lists",
            given=f"{len(payload)} bytes",
        )
    return np.ndarray((count, len(payload) // count), np.uint8, payload)


def alike(calls: Sequence[Parts]) -> Iterator[Sequence[Parts]]:
    """The calls in order, those that follow one another and may be a list together."""
    for _, group in itertools.groupby(calls, _outline):
        some = list(group)
        most = min(MOST, TOGETHER // (some[0].size + 1)) if may_be_alike(some[0]) else 1
        for at in range(0, len(some), most):
            yield some[at : at + most]


def _outline(call: Parts) -> tuple[bytes, list[int], bool]:
    return call.header, [*map(len, call.payloads)], bool(call.elsewhere)


def head(first: int, count: int, timeout: float | None = None) -> bytes:
    """What stands in a list before the request or response."""
    seconds = b"" if timeout is None else bytes((_TIMEOUT,)) + _DOUBLE.pack(timeout)
    return b"\x08" + varint(first) + b"\x10" + varint(count) + seconds


class Column:
    """The payloads of several calls at one place, in the room of one.

    Attributes:
        each: the payloads.
    """

    def __init__(self, each: Sequence[Buffer]) -> None:
        self.each = each
        self._size = sum(map(len, each))

    def __len__(self) -> int:
        return self._size


def columns(calls: Sequence[Parts]) -> list[Column]:
    """The payloads of calls with equal headers, and payloads of equal lengths."""
    return [Column(each) for each in zip(*(call.payloads for call in calls), strict=True)]


def flat(written: Sequence[Buffer | Column]) -> list[Buffer]:
    """What a message is joined of, its columns' payloads among it."""
    out: list[Buffer] = []
    for one in written:
        if isinstance(one, Column):
            out += one.each
        else:
            out.append(one)
    return out
