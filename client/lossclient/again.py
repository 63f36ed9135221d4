"""Lists of calls as bytes. A call like the one before it, but for its numbers, is not looked at anew.

To look through a small call takes as long as all else that its client does with it.
"""

import marshal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lossclient.call import call_message
from lossclient.headers import EXACT
from lossclient.terms import Terms
from losswire import tensor
from losswire.frame import Parts
from losswire.narrow import SHORT

#: What a config may be made of, to be compared by the bytes that marshal makes of it.
_PLAIN = {str, int, float, bool, type(None)}

#: A config and as many arrays: pred, target and weight.
_ARRAYS = 4

Call = Mapping[str, Any] | Sequence[Any]


def call_messages(calls: Iterable[Call], terms: Terms) -> list[Parts]:
    """The parts of the ComputeRequests of calls, each given as `Client.compute_many` takes it.

    Raises:
        SpecError, TensorError: something that cannot travel.
    """
    found: list[Parts] = []
    like: _Like | None = None
    for call in calls:
        parts = None if like is None else like.parts(call)
        if parts is None:
            if isinstance(call, Mapping):
                parts = call_message(**call, terms=terms)
            else:
                parts = call_message(*call, terms=terms)
            like = _like(call, parts) if terms.plain else None
        found.append(parts)
    return found


class _Like(NamedTuple):
    """What another call must be to differ from one in its numbers alone.

    Attributes:
        config: as marshal writes it.
        arrays: dtype and shape of each.
        header: of the request.
    """

    config: bytes
    arrays: Sequence[tuple["np.dtype[Any]", tuple[int, ...]]]
    header: bytes

    def parts(self, call: Call) -> Parts | None:
        """The parts of its request; None if it is another."""
        if type(call) is not tuple or len(call) != len(self.arrays) + 1:
            return None
        try:
            if marshal.dumps(call[0], EXACT) != self.config:
                return None
        except ValueError:  # it holds something else
            return None
        payloads = []
        for given, (dtype, shape) in zip(call[1:], self.arrays, strict=True):
            if (
                type(given) is not np.ndarray
                or given.dtype is not dtype
                or given.shape != shape
                or not given.flags.c_contiguous
            ):
                return None
            payloads.append(given.data.cast("B"))
        return Parts(self.header, payloads)


def _like(call: Call, parts: Parts) -> _Like | None:
    """What a call must be to be like this one; None if that is not told at a glance."""
    if type(call) is not tuple or not 1 < len(call) <= _ARRAYS or type(call[0]) is not dict:
        return None
    config, *arrays = call
    if not _PLAIN.issuperset(map(type, config.values())):
        return None
    if not all(type(one) is np.ndarray and _as_it_lies(one) for one in arrays):
        return None
    layout = [(one.dtype, one.shape) for one in arrays]
    return _Like(marshal.dumps(config, EXACT), layout, parts.header)


def _as_it_lies(array: "np.ndarray[Any, Any]") -> bool:
    """Whether an array of that dtype and shape travels so whatever it holds."""
    floats = array.dtype.kind == "f"
    return (
        array.dtype in tensor.NAME_OF_NUMPY
        and array.nbytes > 0
        and (floats or array.nbytes < SHORT)
    )
