"""Arrays in fewer bytes than their dtype takes, and back.

    bfloat16       float   ±2^-8 of each element
    float16        float   ±2^-11 of each element, or ±2^-39 of the row's largest
    int8           float   ±1/254 of the row's largest
    fewer bytes    integer exact: what fits
    bits           0 and 1 exact

A row is what stands at one index of dimension 0; of rank 0 and 1 all is one row.
float16 and int8 are scaled, a row by one number: so nothing overflows, and a
gradient divided by a million elements does not vanish. float16's scales are powers
of two, so what was float16 before is exact.

NaN and infinities stay what they are, but for int8, which has none: there a row that
holds one is NaN as a whole. No other row is changed by it. In the other two, what is
rounded to more than float32 holds, from 3.39e38 on, is infinite.

NumPy has no bfloat16: it is the upper half of a float32, as uint16 here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from losswire import sparse

Array = npt.NDArray[Any]

#: Elements worked on at a time: what stands between two steps stays in the cache.
BLOCK = 1 << 14

_NAN = 0x7FC0


class Narrow(NamedTuple):
    """How a tensor's bytes are fewer than its dtype and shape would have.

    Attributes:
        wire: the type they are written in, or "bit".
        scales: what each row is to be multiplied with, float32; None is 1.
        indices: which elements there are, int64, in C order; None is all of them.
        energy: the share of the sum of squares that those elements hold; 0 where it is not said.
    """

    wire: str
    scales: bytes | memoryview | None = None
    indices: bytes | memoryview | None = None
    energy: float = 0.0


def widened(dtype: str, shape: Sequence[int], buffer: bytes | memoryview, how: Narrow) -> Array:
    """The array of narrow bytes, in its dtype; bfloat16 as uint16.

    Raises:
        TensorError: its indices do not ascend, or are out of range.
    """
    if how.wire == "bit":
        return of_bits(np.frombuffer(buffer, np.uint8), dtype, shape)
    found = np.frombuffer(buffer, stored(how.wire))
    if how.indices is not None:
        found = sparse.dense(found, np.frombuffer(how.indices, "<i8"), math.prod(shape))
    found = found.reshape(shape)
    if how.wire == dtype:
        return found
    if not dtype.startswith("float"):
        return found.astype(dtype)
    if how.wire == "bfloat16":
        wide = of_bfloat16(found)
    else:
        scales = None if how.scales is None else np.frombuffer(how.scales, "<f4")
        wide = of_scaled(found, scales)
    return wide if dtype == "float32" else wide.astype(dtype)


def stored(name: str) -> "np.dtype[Any]":
    """NumPy's dtype of a type's bytes, little-endian; of bfloat16 that of its bits."""
    return np.dtype("<u2" if name == "bfloat16" else name).newbyteorder("<")


def bfloat16(array: Array) -> Array:
    """The bits of floats, rounded to nearest, ties to even: uint16 of the same shape."""
    out = np.empty(array.shape, np.uint16)
    flat, rounded = array.reshape(-1), out.reshape(-1)
    wide = np.empty(BLOCK, np.uint32)
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, BLOCK):
            block = np.ascontiguousarray(flat[start : start + BLOCK], np.float32)
            bits, carry = block.view(np.uint32), wide[: block.size]
            np.right_shift(bits, 16, out=carry)
            np.bitwise_and(carry, 1, out=carry)
            np.add(carry, bits, out=carry)
            np.add(carry, 0x7FFF, out=carry)
            upper = rounded[start : start + BLOCK]
            np.right_shift(carry, 16, out=upper, casting="unsafe")
            if np.isnan(block.max()):
                upper[np.isnan(block)] = _NAN
    return out


def of_bfloat16(bits: Array) -> npt.NDArray[np.float32]:
    """The floats of such bits, exactly."""
    out = np.empty(bits.shape, np.float32)
    flat, wide = bits.reshape(-1), out.reshape(-1).view(np.uint32)
    for start in range(0, flat.size, BLOCK):
        block = wide[start : start + BLOCK]
        block[...] = flat[start : start + BLOCK]
        np.left_shift(block, 16, out=block)
    return out


def row_shape(shape: Sequence[int]) -> tuple[int, int]:
    """How many rows a tensor of that shape has, and the elements of each."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def scaled(array: Array, wire: str) -> tuple[Array, npt.NDArray[np.float32]]:
    """The floats as int8 or float16, of the same shape, and what to multiply each row with."""
    rows = array.reshape(row_shape(array.shape))
    out = np.empty(rows.shape, wire)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        top = _largest(rows)
        scales = (_whole_steps if wire == "int8" else _powers)(top)
        divisors = np.where(scales > 0, scales, np.float32(1))[:, None]
        for block in _blocks(*rows.shape):
            part = rows[block] / divisors[block[0]]
            if wire == "int8":
                np.rint(part, out=part)
                np.clip(part, -127, 127, out=part)
            out[block] = part
    if wire == "int8":
        out[np.isnan(scales)] = 0
    return out.reshape(array.shape), scales


def of_scaled(array: Array, scales: Array | None) -> npt.NDArray[np.float32]:
    """The floats of int8 or float16; float16 may be without scales."""
    if scales is None:
        return array.astype(np.float32)
    rows = array.reshape(row_shape(array.shape))
    out = np.empty(rows.shape, np.float32)
    # A scale that a stranger sent may be anything.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for block in _blocks(*rows.shape):
            part = out[block]
            part[...] = rows[block]
            np.multiply(part, scales[block[0], None], out=part)
    return out.reshape(array.shape)


def _largest(rows: Array) -> Array:
    """The largest magnitude of each row; NaN where it has one."""
    if not rows.size:
        return np.zeros(len(rows), rows.dtype)
    largest: Array = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return largest


def _whole_steps(top: Array) -> npt.NDArray[np.float32]:
    """Scales of int8; NaN where a row has no finite one."""
    scales = (top / 127).astype(np.float32)
    scales[~np.isfinite(scales)] = np.nan
    # 127 times the next one would be infinite.
    return np.minimum(scales, np.nextafter(np.finfo(np.float32).max / np.float32(127), 0))


def _powers(top: Array) -> npt.NDArray[np.float32]:
    """Scales of float16, powers of two: elements are below 2^15. 1 where a row has no largest."""
    _, exponents = np.frexp(top)
    plain = ~np.isfinite(top) | (top == 0)
    found = np.clip(exponents - 15, -126, 127)
    powers: npt.NDArray[np.float32] = np.ldexp(np.float32(1), np.where(plain, 0, found))
    return powers


def _blocks(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of a table, as large as stay in the cache."""
    wide = min(columns, BLOCK) or 1
    high = max(1, BLOCK // wide)
    for i in range(0, rows, high):
        for j in range(0, columns, wide):
            yield slice(i, i + high), slice(j, j + wide)


def bits(array: Array) -> npt.NDArray[np.uint8]:
    """0 and 1 (or False and True), eight in a byte, the least significant first."""
    return np.packbits(array.reshape(-1) != 0, bitorder="little")


def of_bits(packed: npt.NDArray[np.uint8], dtype: str, shape: Sequence[int]) -> Array:
    """The elements of such bytes."""
    found = np.unpackbits(packed, count=math.prod(shape), bitorder="little").reshape(shape)
    exact: Array = found.view(bool) if dtype == "bool" else found.astype(dtype)
    return exact


def fitting(array: Array) -> str:
    """The shortest type that holds all of these integers: "bit", "uint8", ..., or their own."""
    if not array.size:
        return array.dtype.name
    least, most = int(array.min()), int(array.max())
    if least >= 0 and most <= 1:
        return "bit"
    for name in ("uint8", "int8", "int16", "int32"):
        held = np.iinfo(name)
        if held.min <= least and most <= held.max and held.bits < array.dtype.itemsize * 8:
            return name
    return array.dtype.name
