"""Tensors rewritten in fewer bytes, ready for the wire.

rounded    float32 and float64     in bfloat16, float16 or int8
exact      integers and bools      in what holds each of them; nothing is lost
sparse     gradients               their largest elements; all others become 0
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from losswire import precision
from losswire.dtypes import DTYPES, FLOATS, INTEGERS, NARROWER
from losswire.errors import SpecError
from losswire.precision import Narrow
from losswire.sparse import energy, largest
from losswire.tensor import TensorBytes

#: Bytes below which integers are not looked at: to look takes some 10 µs, in which gRPC moves as many.
SHORT = 1 << 13

#: What floats may be written in.
WIRES = NARROWER["float32"]


def check_wire(name: object, field: str) -> str:
    """That name, if floats may be written so.

    Raises:
        SpecError: they may not.
    """
    if not isinstance(name, str) or name not in WIRES:
        raise SpecError(f"must be one of {', '.join(WIRES)}", field=field, given=repr(name))
    return name


def check_keep(share: float, field: str) -> float:
    """That share, if so much of a gradient may be kept.

    Raises:
        SpecError: it may not.
    """
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise SpecError("must be above 0 and at most 1", field=field, given=repr(share))
    return float(share)


def rounded(given: TensorBytes, wire: str) -> TensorBytes:
    """A float32 or float64 in that type; any other tensor as it is."""
    if given.dtype not in FLOATS or given.narrow is not None:
        return given
    array = _stored(given)
    if wire == "bfloat16":
        return given._replace(buffer=_bytes(precision.bfloat16(array)), narrow=Narrow(wire))
    found, scales = precision.scaled(array, wire)
    return given._replace(buffer=_bytes(found), narrow=Narrow(wire, _bytes(scales)))


def exact(given: TensorBytes) -> TensorBytes:
    """Integers or bools in as few bytes as hold each of them; any other tensor as it is."""
    if len(given.buffer) < SHORT or given.dtype not in ("bool", *INTEGERS) or given.narrow:
        return given
    array = _stored(given)
    wire = "bit" if given.dtype == "bool" else precision.fitting(array)
    if wire == given.dtype:
        return given
    fewer = precision.bits(array) if wire == "bit" else array.astype(wire)
    return given._replace(buffer=_bytes(fewer), narrow=Narrow(wire))


def sparse(given: TensorBytes, share: float, wire: str = "") -> TensorBytes:
    """That share of a float's elements, the largest; all of them where that is not more bytes.

    Parameters:
        given: not narrow.
        share: above 0 and at most 1.
        wire: what to round them to; "" does not.
    """
    whole = rounded(given, wire) if wire else given
    how = whole.narrow or Narrow(given.dtype)
    itemsize = DTYPES[how.wire].itemsize
    elements = len(whole.buffer) // itemsize
    count = math.ceil(share * elements)
    if count * (DTYPES["int64"].itemsize + itemsize) >= elements * itemsize:
        return whole._replace(narrow=how._replace(energy=1.0))
    array = _stored(given).reshape(-1)
    indices = largest(array, count)
    floats = precision.of_bfloat16(array) if given.dtype == "bfloat16" else array
    held = energy(floats, floats[indices])
    kept = np.frombuffer(whole.buffer, f"V{itemsize}")[indices]
    how = how._replace(indices=_bytes(indices.astype("<i8", copy=False)), energy=held)
    return whole._replace(buffer=_bytes(kept), narrow=how)


def _stored(given: TensorBytes) -> npt.NDArray[Any]:
    """The array of a tensor that is not narrow; bfloat16 as uint16."""
    return np.frombuffer(given.buffer, precision.stored(given.dtype)).reshape(given.shape)


def _bytes(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array of our own, in wire order."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data
