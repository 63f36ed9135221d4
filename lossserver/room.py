"""Where an answer lies in the memory that its call has for it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from losswire.frame import Parts
from losswire.region import aligned
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb


class Room:
    """The span of an answer.

    Parameters:
        span: what the call says of it.
        memory: its bytes.
    """

    def __init__(self, span: pb.Span, memory: memoryview) -> None:
        self._span = span
        self._memory = np.frombuffer(memory, np.uint8)
        self._used = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor in here, or of memory of its own where there is no room left. Not filled."""
        size = torch.Size(shape).numel() * dtype.itemsize
        at = self._take(size)
        if at is None or not size:
            return torch.empty(*shape, dtype=dtype)
        return torch.from_numpy(self._memory[at : at + size]).view(dtype).view(*shape)

    def like(self, tensor: Tensor) -> Tensor:
        """The same for a tensor shaped like another."""
        return self.empty(tensor.shape, tensor.dtype)

    def placed(self, parts: Parts) -> Parts:
        """The answer with as many of its last payloads in here as there is room for.

        The numbers of payloads say so: those in the message come first.
        """
        elsewhere: list[bytes] = []
        first = len(parts.payloads)
        while first and (at := self._place(parts.payloads[first - 1])) is not None:
            first -= 1
            where = pb.Span(
                region=self._span.region,
                offset=self._span.offset + at,
                bytes=len(parts.payloads[first]),
            )
            elsewhere.insert(0, pb.Elsewhere(span=where).SerializeToString())
        return Parts(parts.header, parts.payloads[:first], elsewhere)

    def lacks(self, parts: Parts) -> int:
        """Bytes of the answer's payloads that do not lie in here yet."""
        return sum(len(one) for one in parts.payloads if self._find(one) is None)

    def _find(self, payload: Buffer) -> int | None:
        """Where in here a payload lies."""
        given = np.frombuffer(payload, np.uint8)
        at: int = given.ctypes.data - self._memory.ctypes.data
        return at if 0 <= at <= len(self._memory) - len(given) else None

    def _place(self, payload: Buffer) -> int | None:
        """The same; it is copied if it lies elsewhere, None if there is no room."""
        if (at := self._find(payload)) is not None:
            return at
        given = np.frombuffer(payload, np.uint8)
        at = self._take(len(given))
        if at is not None:
            self._memory[at : at + len(given)] = given
        return at

    def _take(self, size: int) -> int | None:
        at = self._used
        if at + size > len(self._memory):
            return None
        self._used = min(aligned(at + size), len(self._memory))
        return at
