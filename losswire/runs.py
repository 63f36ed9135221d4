"""Entries of a stream's message that differ in their ids and their tensors' numbers alone.

A trainer that sends many calls at once sends the same one over and over, with other
numbers: the same config, shapes and timeout. Their entries are equally long and
equal but for a few ranges of bytes. So one of them is read, and NumPy compares the
others with it; each then costs a hundredth of what it takes to read it by itself.

Whatever has another form, as any protobuf library may write it, is read entry by
entry (streaming.py), and means the same.
"""

import functools
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from losswire import frame
from losswire.errors import MessageError
from losswire.frame import Parts, read_varint, varint
from losswire.tensor import Buffer

_ENTRY, _ID, _TIMEOUT = 1 << 3 | 2, 1 << 3, 2 << 3 | 1
_HEADER, _PAYLOAD = 1 << 3 | 2, 2 << 3 | 2
_DOUBLE = struct.Struct("<d")

#: Entries of one run at most; payloads of an entry, and bytes of its header. They bound what is
#: compared in vain.
MOST = 64
MOST_PAYLOADS = 16
MOST_HEADER = 1 << 12

#: Entries of a run that is hardly worth the finding, and so many of those in a message, after which
#: its others are read one by one: with 4,096 calls in pairs it would be 0.2 s, without 0.02 s.
FEW = 8
MOST_OF_FEW = 256

Rows = npt.NDArray[np.uint8]


class Run(NamedTuple):
    """Calls, or answers, that differ in their numbers alone.

    Attributes:
        ids: of each, in order.
        timeout: of all of them; None is for ever.
        header: of the request, or response, of each of them.
        payloads: of these: for each payload the bytes of all, uint8 [calls, bytes].
        listed: they came as a list (lists.py), whose ids follow one another.
    """

    ids: Sequence[int]
    timeout: float | None
    header: bytes
    payloads: list[Rows]
    listed: bool = False

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return len(self.ids) * len(self.header) + sum(one.size for one in self.payloads)

    def part(self, start: int, stop: int) -> "Run":
        """Some of them."""
        own = slice(start, stop)
        return self._replace(ids=self.ids[own], payloads=[one[own] for one in self.payloads])

    def apart(self) -> Iterator[tuple[int, Parts]]:
        """Id and parts of each of them, which share one header, in memory as well."""
        own = [[one.data for one in column] for column in self.payloads]
        payloads = zip(*own, strict=True) if own else [()] * len(self.ids)
        for number, each in zip(self.ids, payloads, strict=True):
            yield number, Parts(self.header, each)


def may_be_alike(parts: Parts) -> bool:
    """Whether calls like this may be a list, or are found to be alike; larger ones gain nothing by it."""
    few = parts.size < frame.LARGE and len(parts.header) <= MOST_HEADER
    return few and 0 < len(parts.payloads) <= MOST_PAYLOADS and not parts.elsewhere


def entries(message: Buffer, within: int) -> Iterator[tuple[int, memoryview | int | Run]]:
    """Tag and value of each field of a message, and in place of those that make a run, the run.

    Parameters:
        message: serialised; its field 1 are entries.
        within: tag of an entry's field that holds a request or a response.

    Raises:
        MessageError: as `frame.fields`.
    """
    view = memoryview(message)
    at, left, of_few = 0, frame.MAX_FIELDS, 0
    while at < len(view) and left > 0:
        found = _run_at(view, at, within, left) if of_few < MOST_OF_FEW else None
        if found is not None:
            run, at = found
            yield _ENTRY, run
            left -= len(run.ids)
            of_few += len(run.ids) < FEW
        else:
            tag, value, at = frame.field_at(view, at)
            yield tag, value
            left -= 1
    if at < len(view):
        raise MessageError(f"a message must have at most {frame.MAX_FIELDS} fields and payloads")


class _Form(NamedTuple):
    """Where in an entry, from its beginning, things are.

    Attributes:
        id, header: without tag and length.
        timeout: likewise; None if there is none.
        payloads: each without tag and length.
        fixed: all that is the same in the entries of a run, but for the id.
    """

    id: slice
    timeout: slice | None
    header: slice
    payloads: list[slice]
    fixed: list[slice]


def _run_at(view: memoryview, at: int, within: int, most: int) -> tuple[Run, int] | None:
    """The run of at most so many entries that begins there, and its end; None if there is none."""
    if view[at] != _ENTRY:
        return None
    length, begin = read_varint(view, at + 1)
    end = begin + length
    size = end - at
    if end + size > len(view) or view[end : end + begin - at] != view[at:begin]:
        return None
    entry, other = view[at:end], view[end : end + size]
    form = _form(entry, begin - at, within)
    if form is None or any(entry[place] != other[place] for place in form.fixed):
        return None
    count = min((len(view) - at) // size, MOST, most)
    rows = np.frombuffer(view, np.uint8, count * size, at).reshape(count, size)
    rows = rows[: _alike(rows, form)]
    if len(rows) == 1:
        return None
    run = Run(
        ids=_numbers(rows[:, form.id]),
        timeout=None if form.timeout is None else _DOUBLE.unpack(entry[form.timeout])[0],
        header=bytes(entry[form.header]),
        payloads=[rows[:, place] for place in form.payloads],
    )
    return run, at + len(rows) * size


def _form(entry: memoryview, at: int, within: int) -> _Form | None:
    """The form of an entry as we write it: id, timeout, and a request or response; None of another."""
    try:
        if entry[at] != _ID:
            return None
        _, end = read_varint(entry, at + 1)
        number, at = slice(at + 1, end), end
        timeout = slice(at + 1, at + 9) if entry[at] == _TIMEOUT else None
        at = at if timeout is None else timeout.stop
        if entry[at] != within:
            return None
        length, inside = read_varint(entry, at + 1)
        if inside + length != len(entry) or entry[inside] != _HEADER:
            return None
        length, at = read_varint(entry, inside + 1)
        header = slice(at, at := at + length)
        payloads: list[slice] = []
        while at < len(entry) and entry[at] == _PAYLOAD and len(payloads) < MOST_PAYLOADS:
            length, begin = read_varint(entry, at + 1)
            payloads.append(slice(begin, at := begin + length))
    except (IndexError, MessageError):
        return None
    if at != len(entry) or header.stop - header.start > MOST_HEADER:
        return None
    ends = [number.stop, *(one.stop for one in payloads)]
    starts = [*(one.start for one in payloads), len(entry)]
    fixed = [slice(*ends) for ends in zip(ends, starts, strict=True) if ends[0] < ends[1]]
    return _Form(number, timeout, header, payloads, fixed)


def _alike(rows: Rows, form: _Form) -> int:
    """How many of the rows, from the first one on, have its bytes but for id and payloads."""
    first = rows[0]
    # Whether a number goes on is told by the highest bit of each of its bytes.
    same = ((rows[:, form.id] ^ first[form.id]) < 0x80).all(1)
    same &= (rows[:, : form.id.start] == first[: form.id.start]).all(1)
    for place in form.fixed:
        same &= (rows[:, place] == first[place]).all(1)
    return len(rows) if same.all() else int(same.argmin())


def _numbers(digits: Rows) -> list[int]:
    """The numbers that these varints are, of 64 bits."""
    shifts = np.arange(digits.shape[1], dtype=np.uint64) * np.uint64(7)
    parts = (digits & 0x7F).astype(np.uint64) << shifts
    numbers: list[int] = np.bitwise_or.reduce(parts, axis=1).tolist()
    return numbers


class Fronts(NamedTuple):
    """What stands before the payloads of an entry.

    Attributes:
        first: before the first payload, after id and timeout: tag and length of the request or
            response, and the header.
        others: before each of the others.
        size: bytes of an entry but for id and timeout.
    """

    first: bytes
    others: list[bytes]
    size: int


@functools.lru_cache(maxsize=64)
def fronts(within: int, header: bytes, lengths: tuple[int, ...]) -> Fronts:
    """What stands before payloads of these lengths, one at least, in an entry's field of that tag."""
    first, *others = [b"\x12" + varint(length) for length in lengths]
    first = b"\x0a" + varint(len(header)) + header + first
    inside = len(first) + sum(map(len, others)) + sum(lengths)
    first = bytes((within,)) + varint(inside) + first
    return Fronts(first, others, len(first) + sum(map(len, others)) + sum(lengths))


def written(head: bytes, front: Fronts, payloads: Sequence[Buffer]) -> list[Buffer]:
    """What a message with an entry is joined of, of which `head` is id and timeout; messages add up."""
    first, *others = payloads
    out: list[Buffer] = [b"\x0a" + varint(len(head) + front.size) + head + front.first, first]
    for before, payload in zip(front.others, others, strict=True):
        out += (before, payload)
    return out
