"""The payloads of a call sent in pieces: how long each is, and in which order they come.

Its header says it. Those of `pred` come last, each after the other, and all others
before them: so rows of `pred` can be computed as soon as they are there.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from losswire.dtypes import DTYPES
from losswire.errors import MessageError
from losswire.v1 import loss_pb2 as pb

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


def _payloads(value: pb.Value) -> dict[int, _Payload]:
    """The payloads of a tree, by number. What is wrong with a tensor is not said here."""
    found: dict[int, _Payload] = {}
    for one in _tensors(value):
        if one.HasField("indices"):
            raise MessageError("a sparse tensor must be sent in one message, not in pieces")
        count = one.shape[0] if len(one.shape) > 1 else 1
        found[one.payload] = _Payload(size := _bytes(one), size // max([1, *one.shape[:1]]))
        if one.HasField("scales"):
            found[one.scales] = _Payload(4 * max(0, count), 4)
    return found


def _bytes(described: pb.Tensor) -> int:
    elements = max(0, math.prod(described.shape))
    wire = described.wire or described.dtype
    return -(-elements // 8) if wire == pb.DTYPE_BIT else elements * _ITEMSIZE.get(wire, 0)


def _tensors(value: pb.Value) -> Iterator[pb.Tensor]:
    kind = value.WhichOneof("kind")
    if kind == "tensor_value":
        yield value.tensor_value
    elif kind == "list_value":
        for item in value.list_value.items:
            yield from _tensors(item)
    elif kind == "map_value":
        for item in value.map_value.entries.values():
            yield from _tensors(item)
