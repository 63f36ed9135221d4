"""The few elements of an array that hold most of it.

What is kept are the largest by magnitude; how much of the array they are is
said by their share of its sum of squares.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from losswire.errors import TensorError

Array = npt.NDArray[Any]

#: Elements whose squares are added up at a time.
BLOCK = 1 << 14


def largest(array: Array, count: int) -> npt.NDArray[np.int64]:
    """The places of so many elements of the largest magnitude, ascending. NaN is the largest of all."""
    unsigned = f"u{array.dtype.itemsize}"
    # Without their sign, floats are ordered as their bits are.
    magnitude = array.reshape(-1).view(unsigned) & np.iinfo(f"i{array.dtype.itemsize}").max
    least = np.partition(magnitude, magnitude.size - count)[magnitude.size - count]
    above = np.flatnonzero(magnitude > least)
    # Of those equal to the least, the first.
    equal = np.flatnonzero(magnitude == least)[: count - above.size]
    return np.sort(np.concatenate([above, equal])).astype(np.int64)


def energy(array: Array, kept: Array) -> float:
    """The share of the sum of squares that these elements of it hold: 0 to 1, or NaN."""
    whole = _squares(array)
    return _squares(kept) / whole if whole != 0 else 1.0


def _squares(array: Array) -> float:
    flat = array.reshape(-1)
    blocks = range(0, flat.size, BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = (flat[i : i + BLOCK].astype(np.float64) for i in blocks)
        # Not np.dot, which would wake a thread on every core for each block.
        return float(sum(np.square(part, out=part).sum() for part in parts))


def dense(kept: Array, indices: npt.NDArray[np.int64], size: int) -> Array:
    """So many elements, of which all but those are 0.

    Raises:
        TensorError: the indices do not ascend, or are out of range; or memory does not hold so many.
    """
    if indices.size:
        inside = indices[0] >= 0 and indices[-1] < size
        if not inside or not (indices[1:] > indices[:-1]).all():
            raise TensorError(f"the indices of {size} elements must ascend, from 0 up")
    try:
        found = np.zeros(size, kept.dtype)
    except (MemoryError, ValueError):
        raise TensorError("memory must hold a sparse tensor", given=f"{size} elements") from None
    found[indices] = kept
    return found
