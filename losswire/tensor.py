"""An array as bytes, and back: the one table of element types, and the one check of a tensor.

`TensorBytes` is the form every framework meets in: a dtype name, a shape, and
a buffer that is C-contiguous and little-endian. NumPy arrays become one here;
an adapter makes them from its own tensors. What a stranger describes is
checked in `read` before anything is allocated for it: nothing here trusts a
size.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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


class _Row(NamedTuple):
    wire: pb.Dtype
    itemsize: int


#: Every element type that can travel. NumPy's own name of each is the key, and `bfloat16` is what
#: the ml_dtypes package calls the one that NumPy lacks.
DTYPES: dict[str, _Row] = {
    "bool": _Row(pb.DTYPE_BOOL, 1),
    "uint8": _Row(pb.DTYPE_UINT8, 1),
    "int8": _Row(pb.DTYPE_INT8, 1),
    "int16": _Row(pb.DTYPE_INT16, 2),
    "int32": _Row(pb.DTYPE_INT32, 4),
    "int64": _Row(pb.DTYPE_INT64, 8),
    "float16": _Row(pb.DTYPE_FLOAT16, 2),
    "bfloat16": _Row(pb.DTYPE_BFLOAT16, 2),
    "float32": _Row(pb.DTYPE_FLOAT32, 4),
    "float64": _Row(pb.DTYPE_FLOAT64, 8),
}
_NAME_OF = {row.wire: name for name, row in DTYPES.items()}

#: NumPy makes `dtype.name` anew each time, in Python; this is a look-up.
_NAME_OF_NUMPY = {np.dtype(name): name for name in DTYPES if name != "bfloat16"}


def pack(array: npt.ArrayLike) -> TensorBytes:
    """The bytes of a NumPy array, viewed where they already are in wire order, else copied.

    Raises:
        TensorError: its dtype does not travel.
    """
    array = np.asarray(array, order="C")
    name = _NAME_OF_NUMPY.get(array.dtype) or array.dtype.name
    if name not in DTYPES:
        raise TensorError(f"dtype must be one of {', '.join(DTYPES)}", given=name)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return TensorBytes(name, array.shape, array.reshape(-1).view(np.uint8).data)


def unpack(tensor: TensorBytes) -> npt.NDArray[Any]:
    """A read-only NumPy array over the tensor's own bytes.

    Raises:
        TensorError: it is bfloat16 and the package ml_dtypes, which NumPy needs for that, is absent.
    """
    return np.frombuffer(tensor.buffer, numpy_dtype(tensor.dtype)).reshape(tensor.shape)


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
    """The header entry of a tensor whose bytes are payload number `payload`."""
    return pb.Tensor(dtype=DTYPES[tensor.dtype].wire, shape=tensor.shape, payload=payload)


def read(described: pb.Tensor, payloads: Sequence[Buffer], field: str) -> TensorBytes:
    """The tensor a header entry describes, over its payload's bytes, checked.

    Raises:
        TensorError: unknown dtype, rank over 32, a negative extent, or a byte
            count that is not product(shape) × itemsize.
        MessageError: there is no such payload.
    """
    name = _NAME_OF.get(described.dtype)
    if name is None:
        raise TensorError(
            f"dtype must be one of {', '.join(DTYPES)}", field=field, given=described.dtype
        )
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
    if described.payload >= len(payloads):
        raise MessageError(
            f"payload must be one of the {len(payloads)} in the message",
            field=field,
            given=described.payload,
        )
    buffer = payloads[described.payload]
    needed = math.prod(shape) * DTYPES[name].itemsize
    if len(buffer) != needed:
        raise TensorError(
            f"payload of {name} {list(shape)} must be {needed} bytes",
            field=field,
            given=f"{len(buffer)} bytes",
        )
    return TensorBytes(name, shape, buffer)
