"""Headers that a trainer sends, and gets, again and again: same config, same shapes, other numbers.

Python's protobuf takes longer to write the header of a small call than the server
takes to compute it. So a header is remembered by all that it is made of. What is
unusual is left to call.py: trees of tensors, upstream gradients, states, tensors in
fewer bytes.
"""

import functools
import marshal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from lossclient.terms import PRIORITIES, Terms
from losswire import frame, tensor, value
from losswire.errors import LossError, TensorError
from losswire.frame import Parts
from losswire.narrow import exact
from losswire.precision import Narrow
from losswire.runs import Rows
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

#: Bytes and tensors of what is remembered; 1,024 calls and as many replies are: some 10 MB.
MAX_REMEMBERED = 1 << 12
MAX_TENSORS = 16

#: What marshal writes is the same for the same values only before version 3.
EXACT = 2

_TIMINGS = 4 << 3 | 2

_NUMBERS = (float, int, type(None))
_TEXTS = (str, type(None))

_Layout = tuple[tuple[str, str, tuple[int, ...], Narrow | None], ...]


def plain_call(
    config: Any,
    inputs: Mapping[str, Any],
    wrt: Iterable[str],
    avg_factor: Any,
    reduction: Any,
    terms: Terms,
) -> Parts | None:
    """The parts of a ComputeRequest whose inputs are arrays, nothing else; None of any other."""
    if type(avg_factor) not in _NUMBERS or type(reduction) not in _TEXTS:
        return None
    layout: list[tuple[str, str, tuple[int, ...], Narrow | None]] = []
    payloads: list[Buffer] = []
    try:
        said = marshal.dumps((config, tuple(wrt), reduction), EXACT)
        for name, given in inputs.items():
            if given is not None:
                dtype, shape, buffer, narrow = _packed(given)
                layout.append((name, dtype, shape, narrow))
                payloads.append(buffer)
    except (ValueError, TypeError, TensorError):
        return None  # there are other things among them; call.py says what is wrong with which
    # Integers in fewer bytes have one payload, too; a rounded float may have scales besides.
    if len(said) > MAX_REMEMBERED or any(narrow and narrow.scales for *_, narrow in layout):
        return None
    try:
        header = _call_header(said, tuple(layout), terms.priority)
    except LossError:
        return None  # such as an array in the config, of which marshal writes the bytes
    if avg_factor is not None:
        # Two serialised messages in a row are one, merged.
        header += pb.ComputeHeader(avg_factor=avg_factor).SerializeToString()
    return Parts(header, payloads)


def _packed(given: Any) -> TensorBytes:
    if type(given) is np.ndarray:
        return exact(tensor.pack(given))
    if type(given) is TensorBytes:
        return exact(given)
    raise TypeError


@functools.lru_cache(maxsize=1024)
def _call_header(said: bytes, layout: _Layout, priority: str) -> bytes:
    config, wrt, reduction = marshal.loads(said)  # noqa: S302  (our own, of a moment ago)
    header = pb.ComputeHeader(
        config=value.pack(config, [], "config"),
        wrt=wrt,
        priority=PRIORITIES[priority],
        reduction_override=reduction,
    )
    for index, (name, dtype, shape, narrow) in enumerate(layout):
        described = tensor.describe(TensorBytes(dtype, shape, b"", narrow), index)
        header.inputs[name].tensor_value.CopyFrom(described)
    return header.SerializeToString()


class Described(NamedTuple):
    """A tensor of a reply, and the number of its payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    payload: int

    def found(self, payloads: Sequence[Buffer]) -> TensorBytes:
        """The tensor itself."""
        return TensorBytes(self.dtype, self.shape, payloads[self.payload])

    def stacked(self, columns: Sequence[Rows]) -> TensorBytes:
        """The tensors of several replies in one, of these payloads."""
        column = np.ascontiguousarray(columns[self.payload])
        return TensorBytes(self.dtype, (len(column), *self.shape), column.reshape(-1).data)


class PlainReply(NamedTuple):
    """What a reply says of which each loss and each gradient is one tensor."""

    losses: tuple[Described, ...]
    grads: tuple[Described, ...]
    metrics: frozenset[str]


def plain_reply(header: bytes, lengths: tuple[int, ...]) -> tuple[PlainReply, bytes] | None:
    """What a ComputeResponse says, and its serialised timings; None if there is more to it.

    Parameters:
        header: serialised.
        lengths: bytes of its payloads.
    """
    try:
        at = _timings_at(header)
        if at is None or len(lengths) > MAX_TENSORS:
            return None
        said = _plain_reply(header[: at[0]], lengths)
    except LossError:
        return None  # call.py says what is wrong with it
    return None if said is None else (said, header[at[1] :])


def _timings_at(header: bytes) -> tuple[int, int] | None:
    """Where the field of the timings begins, and they themselves, if it is the last one."""
    view = memoryview(header)
    at = 0
    while at < len(header):
        begin = at
        tag, at = frame.read_varint(view, at)
        if tag & 7 != 2:
            return None
        length, at = frame.read_varint(view, at)
        if tag == _TIMINGS:
            return (begin, at) if at + length == len(header) else None
        at += length
    return None


class _Place:
    """Stands for a payload: its number, and its length."""

    def __init__(self, index: int, length: int) -> None:
        self.index = index
        self._length = length

    def __len__(self) -> int:
        return self._length


@functools.lru_cache(maxsize=1024)
def _plain_reply(header: bytes, lengths: tuple[int, ...]) -> PlainReply | None:
    """What a header without timings says of payloads of these lengths.

    Raises:
        LossError: they do not go together.
    """
    try:
        read = pb.ResultHeader.FromString(header)
    except DecodeError:
        return None
    places: Any = [_Place(index, length) for index, length in enumerate(lengths)]
    reader = Reader(places, lambda given: given)
    trees = [
        [(name, reader.read(of[name], name)) for name in sorted(of)]
        for of in (read.losses, read.grads)
    ]
    tensors = [one for tree in trees for _, one in tree]
    plain = all(isinstance(one, TensorBytes) and one.narrow is None for one in tensors)
    if not plain or not read.losses or read.HasField("state") or reader.energy:
        return None
    losses, grads = (
        tuple(Described(name, one.dtype, one.shape, one.buffer.index) for name, one in tree)
        for tree in trees
    )
    return PlainReply(losses, grads, frozenset(read.metrics))
