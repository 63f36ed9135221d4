"""How a caller wants its gradients written: in which type, and how much of them.

bfloat16 is made on the device where a batch was computed, so that half the bytes
come back from there, if all of the batch want it. All else is made of what has
come back. Losses and states are always written as they are.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from losswire import narrow, tensor
from losswire.errors import SpecError
from losswire.precision import Narrow
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb

#: What gradients can be asked for in; "" is their own dtype.
WIRES = {
    pb.DTYPE_UNSPECIFIED: "",
    pb.DTYPE_BFLOAT16: "bfloat16",
    pb.DTYPE_FLOAT16: "float16",
    pb.DTYPE_INT8: "int8",
}

#: What is written otherwise: halves are short already.
FLOATS = (torch.float32, torch.float64)


class Wishes(NamedTuple):
    """How a caller wants gradients to be written.

    Attributes:
        wire: float32 and float64 in that type; "" is as they are.
        keep: only that share of the elements, the largest; 0 is all of them.
    """

    wire: str = ""
    keep: float = 0.0

    def early(self, dtype: torch.dtype) -> torch.dtype:
        """What to round a gradient of that dtype to before it leaves its device."""
        early = self.wire == "bfloat16" and not self.keep and dtype in FLOATS
        return torch.bfloat16 if early else dtype

    def written(self, grad: Tensor, dtype: torch.dtype) -> TensorBytes:
        """A gradient of that dtype, on the CPU; it may have been rounded already."""
        given = to_bytes(grad)
        if grad.dtype != dtype:
            own = str(dtype).removeprefix("torch.")
            return given._replace(dtype=own, narrow=Narrow(given.dtype))
        if self.keep:
            return narrow.sparse(given, self.keep, self.wire)
        return narrow.rounded(given, self.wire) if self.wire else given


NO_WISHES = Wishes()


def common(wishes: Iterable[Wishes]) -> Wishes:
    """What all of them wish; nothing if they are not the same."""
    found = set(wishes)
    return found.pop() if len(found) == 1 else NO_WISHES


def wishes_of(header: pb.ComputeHeader) -> Wishes:
    """What a call wishes.

    Raises:
        SpecError: there is no such thing.
    """
    wire, keep = header.wire_dtype, header.grad_keep
    if wire not in WIRES:
        raise SpecError("must be one of bfloat16, float16, int8", field="wire_dtype", given=wire)
    if header.HasField("grad_keep") and not 0 < keep <= 1:
        raise SpecError("must be above 0 and at most 1", field="grad_keep", given=keep)
    return Wishes(WIRES[wire], keep) if wire or keep else NO_WISHES


def to_bytes(given: Tensor) -> TensorBytes:
    """The bytes of a CPU tensor, viewed if it is contiguous, else copied."""
    if given.dtype is torch.bfloat16:
        packed = tensor.pack(given.view(torch.int16).numpy())
        return packed._replace(dtype="bfloat16")
    return tensor.pack(given.numpy())
