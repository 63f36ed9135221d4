"""Where a batch lies in host memory, and which memory that is.

Tensors that go to a device together lie in one slab, and go in one copy. Parts
of one tensor are written there one after another: the copy that brings them
into memory the device can read by itself is the copy that concatenates them.

All slabs are cut from one piece of memory, made once: pinning some takes
milliseconds, and pinned memory is no other process's any more. Nobody gives a
slab back. It is free again once no tensor lies in it any more, whoever held the
last one, and the copies queued on it are done.
"""

import functools
import weakref
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

#: Bytes that every tensor's place is a multiple of: a cache line, and more than any instruction of
#: a CPU or GPU asks for.
ALIGNMENT = 64


class Event(Protocol):
    """Something a device was told to do, in its turn."""

    def query(self) -> bool:
        """Whether it is done."""

    def synchronize(self) -> None:
        """Wait until it is."""


class Place(NamedTuple):
    """Where in a slab a tensor lies: bytes from its beginning, and what they mean."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        """Bytes from the slab's beginning to the tensor's end."""
        return self.offset + torch.Size(self.shape).numel() * self.dtype.itemsize

    def of(self, memory: Tensor) -> Tensor:
        """The tensor there, in the memory of a slab or a copy of it."""
        return memory[self.offset : self.end].view(self.dtype).view(self.shape)


def plan(columns: Sequence[Sequence[Tensor]]) -> tuple[list[Place], int]:
    """Where each column of parts goes, concatenated along rows; and the bytes of them all."""
    places: list[Place] = []
    end = 0
    for column in columns:
        offset = _aligned(end)
        places.append(Place(offset, _shape(column), _dtype(column)))
        end = places[-1].end
    return places, end


def _shape(column: Sequence[Tensor]) -> tuple[int, ...]:
    first = column[0].shape
    return tuple(first) if len(column) == 1 else (sum(one.shape[0] for one in column), *first[1:])


def _dtype(column: Sequence[Tensor]) -> torch.dtype:
    return functools.reduce(torch.promote_types, {one.dtype for one in column})


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def joined(column: Sequence[Tensor]) -> Tensor:
    """The parts concatenated; a lone one as it is."""
    return column[0] if len(column) == 1 else torch.cat(list(column))


def write(columns: Sequence[Sequence[Tensor]], places: Sequence[Place], memory: Tensor) -> None:
    """Write each column to its place in the memory of a slab."""
    for column, place in zip(columns, places, strict=True):
        if len(column) == 1:
            place.of(memory).copy_(column[0])
        else:
            torch.cat(list(column), out=place.of(memory))


class _Lent(NamedTuple):
    start: int
    end: int
    events: list[Event]

    @property
    def over(self) -> bool:
        return all(event.query() for event in self.events)


class Slab:
    """Memory of `Slabs` that is lent until nobody refers to it any more.

    Attributes:
        memory: its bytes, uint8 [size].
    """

    def __init__(self, memory: Tensor, events: list[Event]) -> None:
        self.memory = memory
        self._events = events

    def until(self, event: Event) -> None:
        """Lend the memory to nobody else before that has happened, either."""
        self._events.append(event)


class Slabs:
    """A piece of host memory that is lent in slabs.

    One thread takes them. Any may drop the last reference to one.

    Parameters:
        memory: uint8 [bytes], at a multiple of `ALIGNMENT`.
    """

    def __init__(self, memory: Tensor) -> None:
        self._bytes = memory.numpy()
        self._free = [(0, len(memory))]
        self._ending: list[_Lent] = []
        # Filled by whoever drops the last reference, in the middle of anything; so without a lock.
        self._dropped: deque[_Lent] = deque()

    @property
    def free(self) -> int:
        """Bytes that are lent to nobody."""
        self._reclaim()
        return sum(end - start for start, end in self._free)

    def take(self, size: int) -> Slab | None:
        """A slab of so many bytes; None while there is no room for it."""
        size = _aligned(max(size, 1))
        self._reclaim()
        for index, (start, end) in enumerate(self._free):
            if end - start >= size:
                rest = (start + size, end)
                self._free[index : index + 1] = [rest] if rest[0] < end else []
                return self._lend(start, start + size)
        return None

    def _lend(self, start: int, end: int) -> Slab:
        # Each tensor that lies in the slab, and each array or buffer made of one, keeps this array.
        array = self._bytes[start:end]
        events: list[Event] = []
        lent = _Lent(start, end, events)
        weakref.finalize(array, self._dropped.append, lent).atexit = False
        return Slab(torch.from_numpy(array), events)

    def _reclaim(self) -> None:
        while self._dropped:
            self._ending.append(self._dropped.popleft())
        over = [lent for lent in self._ending if lent.over]
        if not over:
            return
        self._ending = [lent for lent in self._ending if lent not in over]
        free: list[tuple[int, int]] = []
        for start, end in sorted([*self._free, *(lent[:2] for lent in over)]):
            if free and free[-1][1] == start:
                free[-1] = (free[-1][0], end)
            else:
                free.append((start, end))
        self._free = free
