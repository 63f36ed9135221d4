"""Where a tensor of a call comes from: which payloads, and how they are written.

All is widened here, on the CPU: a call's checks look at its values, and to widen
takes no longer than the copy that is made anyway, since a message is read-only.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from losswire.errors import TensorError
from losswire.frame import ALIGNMENT
from losswire.precision import of_bits, row_shape
from losswire.tensor import Buffer, TensorBytes


class Source(NamedTuple):
    """Where a tensor comes from.

    Attributes:
        dtype: its element type.
        shape: its extents.
        payload: the number of its payload.
        wire: what that is written in, if not its dtype; else "".
        scales: the number of the payload of its scales, if it has any.
        lent: it may be read where it lies, though its sender can still write there: nothing of it
            is checked.
    """

    dtype: str
    shape: tuple[int, ...]
    payload: int
    wire: str = ""
    scales: int | None = None
    lent: bool = False

    def reads_in_place(self, payloads: Sequence[Buffer | Tensor]) -> bool:
        """Whether it is lent or its message is ours, and torch can have it: it can be written."""
        payload = payloads[self.payload]
        if not isinstance(payload, memoryview) or payload.readonly:
            return False
        return self.lent or (not self.wire and self.dtype != "bool" and _is_ours(payload))

    def tensor(self, payloads: Sequence[Buffer | Tensor]) -> Tensor:
        """The tensor, in memory of its own unless it was lent, or stays with the server."""
        payload = payloads[self.payload]
        if isinstance(payload, Tensor) and payload.is_meta:
            return payload  # which stands for rows that are still to come (large.py)
        if isinstance(payload, Tensor):
            # Nobody writes what stays with the server (resident.py); but a bool may be a 2.
            payload = payload.numpy().data
            if not self.wire and self.dtype != "bool":
                return in_place(self.dtype, self.shape, payload)
        elif self.reads_in_place(payloads):
            return in_place(self.dtype, self.shape, payload)
        if not self.wire:
            return to_torch(self.dtype, self.shape, payload)
        if self.wire == "bit":
            packed = np.frombuffer(payload, np.uint8)
            return torch.from_numpy(of_bits(packed, self.dtype, self.shape))
        scales = None if self.scales is None else payloads[self.scales]
        assert not isinstance(scales, Tensor)  # noqa: S101  (for mypy)
        return widened(to_torch(self.wire, self.shape, payload), self.dtype, scales)

    def rows(self, columns: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """The tensors of several calls, their rows one after another, in memory of its own.

        Parameters:
            columns: for each payload the bytes of all calls, uint8 [calls, bytes], in a message that is
                ours if it can be written. It is no wire.
        """
        column = own = columns[self.payload]
        if self.dtype == "bool":
            own = column != 0
        elif not (column.flags.carray and not column.ctypes.data % ALIGNMENT):
            own = column.copy()
        return in_place(self.dtype, (len(column) * self.shape[0], *self.shape[1:]), own.data)


def _is_ours(payload: memoryview) -> bool:
    """Whether a payload lies in a message that nobody else has (losswire/bypass.py), and aligned."""
    if not isinstance(payload.obj, np.ndarray):
        return False
    return not np.frombuffer(payload, np.uint8).ctypes.data % ALIGNMENT


class Place:
    """Stands for a payload: its number, and its length."""

    def __init__(self, index: int, length: int) -> None:
        self.index = index
        self._length = length

    def __len__(self) -> int:
        return self._length


def source(given: TensorBytes) -> Source:
    """Where a tensor comes from whose payloads are places.

    Raises:
        TensorError: it is sparse.
    """
    places: Any = (given.buffer, given.narrow and given.narrow.scales)
    if given.narrow is None:
        return Source(given.dtype, given.shape, places[0].index)
    if given.narrow.indices is not None:
        # A few bytes of a message would become as much memory as they say.
        raise TensorError("only a gradient may be sparse", field="indices")
    scales = None if places[1] is None else places[1].index
    return Source(given.dtype, given.shape, places[0].index, given.narrow.wire, scales)


def widened(given: Tensor, dtype: str, scales: Buffer | None = None) -> Tensor:
    """A tensor in a wider dtype, each of its rows times its scale."""
    if scales is None:
        return given.to(getattr(torch, dtype))
    factors = to_torch("float32", (len(scales) // 4, 1), scales)
    # In float32, as its sender would read it.
    wide = given.to(torch.float32)
    wide.view(row_shape(given.shape)).mul_(factors)
    return wide.to(getattr(torch, dtype))


def in_place(dtype: str, shape: Sequence[int], payload: Buffer) -> Tensor:
    """A tensor in the very memory of a payload."""
    flat = torch.from_numpy(np.frombuffer(payload, np.uint8))
    return flat.view(getattr(torch, dtype)).view(tuple(shape))


def to_torch(dtype: str, shape: Sequence[int], buffer: Buffer) -> Tensor:
    """A tensor of its own memory: the message's is read-only, and torch has no such tensors."""
    if dtype == "bool":
        # A bool that is neither 0 nor 1 would be undefined behaviour in C++.
        return torch.from_numpy((np.frombuffer(buffer, np.uint8) != 0).reshape(shape))
    wire = "int16" if dtype == "bfloat16" else dtype
    tensor = torch.from_numpy(np.frombuffer(buffer, wire).reshape(shape).copy())
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
