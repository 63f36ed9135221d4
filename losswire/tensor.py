"""An array as bytes, and back, and the one check of a tensor.

`TensorBytes` is the form every framework meets in: a dtype name, a shape, and
a buffer that is C-contiguous and little-endian. NumPy arrays become one here;
an adapter makes them from its own tensors. What a stranger describes is
checked in `read` before anything is allocated for it: nothing here trusts a
size.
"""

import functools
import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from losswire import precision
from losswire.dtypes import DTYPES, FLOATS, HALVES, NAME_OF, NARROWER, WIRE_OF
from losswire.errors import MessageError, TensorError
from losswire.v1 import loss_pb2 as pb

Buffer = bytes | memoryview

#: Extents a tensor may have. NumPy allows 64; a loss needs a handful.
MAX_RANK = 32

#: Product of the extents, zeros left out, of a tensor without elements: it has no bytes that would
#: bound them, and a loss may make something of their size.
MAX_EMPTY = 2**24


class TensorBytes(NamedTuple):
    """A tensor, ready for the wire or fresh from it."""

    dtype: str
    shape: tuple[int, ...]
    buffer: Buffer
    narrow: precision.Narrow | None = None


#: By dtype, of those that are in wire order. NumPy makes `dtype.name` anew each time, in Python.
NAME_OF_NUMPY = {np.dtype(name).newbyteorder("<"): name for name in DTYPES if name != "bfloat16"}


def pack(array: npt.ArrayLike, field: str = "") -> TensorBytes:
    """The bytes of a NumPy array, viewed where they already are in wire order, else copied.

    Raises:
        TensorError: its dtype does not travel.
    """
    array = np.asarray(array, order="C")
    known = NAME_OF_NUMPY.get(array.dtype)
    if known is not None and array.size:
        return TensorBytes(known, array.shape, array.data.cast("B"))
    name = array.dtype.name
    if name not in DTYPES:
        raise TensorError(f"dtype must be one of {', '.join(DTYPES)}", field=field, given=name)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return TensorBytes(name, array.shape, array.reshape(-1).view(np.uint8).data)


def unpack(tensor: TensorBytes) -> npt.NDArray[Any]:
    """A NumPy array over the tensor's own bytes, read-only; if they are narrow, one of its own.

    Raises:
        TensorError: it is bfloat16 and the package ml_dtypes, which NumPy needs for that, is absent;
            or its indices do not ascend.
    """
    dtype = numpy_dtype(tensor.dtype)
    if tensor.narrow is not None:
        return precision.widened(tensor.dtype, tensor.shape, tensor.buffer, tensor.narrow).view(
            dtype
        )
    return np.ndarray(tensor.shape, dtype, tensor.buffer)


@functools.cache
def numpy_dtype(name: str) -> "np.dtype[Any]":
    """NumPy's dtype of that name, little-endian; for bfloat16 the one of ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name).newbyteorder("<")
    try:
        import ml_dtypes  # noqa: PLC0415  (optional: only who receives bfloat16 needs it)
    except ImportError:
        raise TensorError(
            "NumPy has no bfloat16 of its own: pip install ml_dtypes, or ask for float32"
        ) from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def describe(tensor: TensorBytes, payload: int) -> pb.Tensor:
    """The header entry of a tensor whose bytes are the payloads from number `payload` on."""
    described = pb.Tensor(dtype=DTYPES[tensor.dtype].wire, shape=tensor.shape, payload=payload)
    how = tensor.narrow
    if how is not None:
        if how.wire != tensor.dtype:
            described.wire = WIRE_OF[how.wire]
        if how.scales is not None:
            described.scales = payload = payload + 1
        if how.indices is not None:
            described.indices = payload + 1
        described.energy = how.energy
    return described


def buffers(tensor: TensorBytes) -> list[Buffer]:
    """Its payloads, in the order in which `describe` numbers them."""
    how = tensor.narrow
    if how is None:
        return [tensor.buffer]
    return [one for one in (tensor.buffer, how.scales, how.indices) if one is not None]


def read(described: pb.Tensor, payloads: Sequence[Buffer], field: str) -> TensorBytes:
    """The tensor a header entry describes, over its payloads' bytes, checked.

    What indices say is checked when they are used, by `unpack`.

    Raises:
        TensorError: unknown dtype, rank over 32, a negative extent, or a byte
            count that is not product(shape) × itemsize; a wire type, scales or
            indices that do not go with the dtype.
        MessageError: there is no such payload.
    """
    name = NAME_OF.get(described.dtype)
    if name not in DTYPES:
        raise TensorError(
            f"dtype must be one of {', '.join(DTYPES)}", field=field, given=described.dtype
        )
    shape = _shape(described, field)
    buffer = _payload(described.payload, payloads, field)
    how = _narrow(described, name, shape, payloads, field)
    needed = _bytes_of(name, math.prod(shape), how)
    if len(buffer) != needed:
        written = f" as {how.wire}" if how is not None else ""
        raise TensorError(
            f"payload of {name} {list(shape)}{written} must be {needed} bytes",
            field=field,
            given=f"{len(buffer)} bytes",
        )
    return TensorBytes(name, shape, buffer, how)


def _bytes_of(name: str, elements: int, how: precision.Narrow | None) -> int:
    if how is None:
        return elements * DTYPES[name].itemsize
    if how.wire == "bit":
        return -(-elements // 8)
    count = elements if how.indices is None else len(how.indices) // DTYPES["int64"].itemsize
    return count * DTYPES[how.wire].itemsize


def _narrow(
    described: pb.Tensor,
    name: str,
    shape: tuple[int, ...],
    payloads: Sequence[Buffer],
    field: str,
) -> precision.Narrow | None:
    """How the bytes are narrower, checked; None if they are not."""
    wire = NAME_OF.get(described.wire, str(described.wire)) if described.wire else name
    sparse, scaled = described.HasField("indices"), described.HasField("scales")
    if wire == name and not sparse and not scaled:
        return None
    allowed = (name, *NARROWER.get(name, ()))
    if wire not in allowed:
        raise TensorError(
            f"the wire type of {name} must be one of {', '.join(allowed)}", field=field, given=wire
        )
    scales = indices = None
    if scaled or (wire == "int8" and name in FLOATS):
        if not scaled or name not in FLOATS or wire not in ("int8", "float16"):
            raise TensorError(
                "scales go with a float written as int8, or as float16",
                field=field,
                given=f"{'scales' if scaled else 'none'} of {name} as {wire}",
            )
        scales = _scales(described, shape, payloads, field)
    if sparse:
        indices = _indices(described, name, math.prod(shape), payloads, field)
    return precision.Narrow(wire, scales, indices, described.energy)


def _scales(
    described: pb.Tensor, shape: tuple[int, ...], payloads: Sequence[Buffer], field: str
) -> Buffer:
    scales = _payload(described.scales, payloads, field)
    needed = precision.row_shape(shape)[0] * DTYPES["float32"].itemsize
    if len(scales) != needed:
        raise TensorError(
            f"scales of {list(shape)} must be {needed} bytes",
            field=field,
            given=f"{len(scales)} bytes",
        )
    return scales


def _indices(
    described: pb.Tensor, name: str, elements: int, payloads: Sequence[Buffer], field: str
) -> Buffer:
    if name not in (*FLOATS, *HALVES):
        raise TensorError("only floats may be sparse", field=field, given=name)
    indices = _payload(described.indices, payloads, field)
    if len(indices) % 8 or len(indices) // 8 > elements:
        raise TensorError(
            f"indices must be at most {elements}, of 8 bytes each",
            field=field,
            given=f"{len(indices)} bytes",
        )
    return indices


def _shape(described: pb.Tensor, field: str) -> tuple[int, ...]:
    if len(described.shape) > MAX_RANK:
        raise TensorError(
            f"rank must be at most {MAX_RANK}", field=field, given=len(described.shape)
        )
    shape = tuple(described.shape)
    if any(extent < 0 for extent in shape):
        raise TensorError("no extent may be negative", field=field, given=list(shape))
    if 0 in shape and math.prod(extent for extent in shape if extent) > MAX_EMPTY:
        raise TensorError(
            f"the other extents of an empty tensor must multiply to at most {MAX_EMPTY}",
            field=field,
            given=list(shape),
        )
    return shape


def _payload(index: int, payloads: Sequence[Buffer], field: str) -> Buffer:
    if index >= len(payloads):
        raise MessageError(
            f"payload must be one of the {len(payloads)} in the message", field=field, given=index
        )
    return payloads[index]
