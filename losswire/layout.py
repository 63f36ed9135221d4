"""The payloads of a call sent in pieces: how long each is, and in which order they come.

Its header says it. Those of `pred` come last, each after the other, and all others
before them: so rows of `pred` can be computed as soon as they are there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from losswire.dtypes import DTYPES
from losswire.errors import MessageError, MessageTooLargeError
from losswire.tensor import MAX_RANK
from losswire.v1 import loss_pb2 as pb
from losswire.value import tensors

#: Bytes of a tensor as it is written: what it becomes must still be counted in 64 bits.
LARGEST = 1 << 56

_ITEMSIZE = {row.wire: row.itemsize for row in DTYPES.values()}


class Layout(NamedTuple):
    """The payloads of a call that are sent in pieces.

    Attributes:
        sizes: bytes of each, by its number.
        others: numbers of all but those of `pred`, in order.
        pred: numbers of those of `pred`, in order.
        rows: bytes of a row of each, by its number.
    """

    sizes: list[int]
    others: list[int]
    pred: list[int]
    rows: list[int]

    def bytes(self, numbers: Sequence[int]) -> int:
        """Bytes of the payloads of these numbers."""
        return sum(self.sizes[number] for number in numbers)

    def piece(self, number: int, enough: int) -> int:
        """How long to make a payload's pieces: whole rows, about so many bytes, if a row has no more."""
        row = self.rows[number]
        return enough // row * row if 0 < row <= enough else enough


class _Payload(NamedTuple):
    size: int
    row: int


def layout(header: pb.ComputeHeader, elsewhere: int = 0) -> Layout:
    """The payloads of a call with so many that are elsewhere.

    Raises:
        MessageError: a tensor is sparse, so that its bytes are not known beforehand; or payloads
            are not numbered from 0 on.
        MessageTooLargeError: a tensor has more bytes than any machine.
    """
    of_pred = _payloads(header.inputs["pred"]) if "pred" in header.inputs else {}
    rest = [value for name, value in header.inputs.items() if name != "pred"]
    all_ = dict(of_pred)
    for value in [*rest, header.grad_output, header.state]:
        all_ |= _payloads(value)
    numbers = range(len(all_) - elsewhere)
    if any(number not in all_ for number in numbers):
        raise MessageError(
            "payloads must be numbered from 0 on, each of one tensor", given=sorted(all_)
        )
    return Layout(
        sizes=[all_[number].size for number in numbers],
        others=[number for number in numbers if number not in of_pred],
        pred=[number for number in numbers if number in of_pred],
        rows=[all_[number].row for number in numbers],
    )


def without_pieces(header: bytes) -> set[int]:
    """Numbers of the payloads of an answer's tensors without elements; none if it is no header."""
    try:
        answer = pb.ResultHeader.FromString(header)
    except DecodeError:
        return set()
    trees = [*answer.losses.values(), *answer.grads.values(), answer.state]
    empty = [one for tree in trees for one in tensors(tree) if 0 in one.shape]
    return {
        getattr(one, name)
        for one in empty
        for name in ("payload", "scales", "indices")
        if name == "payload" or one.HasField(name)
    }


def _payloads(value: pb.Value) -> dict[int, _Payload]:
    """The payloads of a tree, by number. What is wrong with a tensor is not said here."""
    found: dict[int, _Payload] = {}
    for one in tensors(value):
        if one.HasField("indices"):
            raise MessageError("a sparse tensor must be sent in one message, not in pieces")
        count = one.shape[0] if len(one.shape) > 1 else 1
        found[one.payload] = _Payload(size := _bytes(one), size // max([1, *one.shape[:1]]))
        if one.HasField("scales"):
            found[one.scales] = _Payload(4 * max(0, count), 4)
    return found


def _bytes(described: pb.Tensor) -> int:
    # More extents are refused later; to multiply them takes long where they are thousands.
    elements = max(0, math.prod(described.shape[:MAX_RANK]))
    wire = described.wire or described.dtype
    size = -(-elements // 8) if wire == pb.DTYPE_BIT else elements * _ITEMSIZE.get(wire, 0)
    if size > LARGEST:
        raise MessageTooLargeError(f"a tensor must have at most {LARGEST} bytes")
    return size
