"""torch tensors ⇄ the wire's."""

from typing import Any

import torch
from torch import Tensor

from losswire import tensor
from losswire.precision import Narrow
from losswire.tensor import TensorBytes


def to_bytes(given: Tensor, wire: str = "") -> TensorBytes:
    """A tensor ready for the wire; on the CPU and contiguous it is viewed, else copied.

    Where `wire` is bfloat16, a float32 or float64 is rounded to it on its device, so that fewer
    bytes are copied from there. What else is narrow is made of this (`losswire.narrow`).
    """
    own = given.detach()
    early = wire == "bfloat16" and own.dtype in (torch.float32, torch.float64)
    own = (own.bfloat16() if early else own).cpu().resolve_conj().resolve_neg()
    if own.dtype is not torch.bfloat16:
        return tensor.pack(own.numpy())
    packed = tensor.pack(own.view(torch.int16).numpy())
    if not early:
        return packed._replace(dtype="bfloat16")
    dtype = str(given.dtype).removeprefix("torch.")
    return packed._replace(dtype=dtype, narrow=Narrow("bfloat16"))


def to_torch(given: TensorBytes) -> Tensor:
    """A tensor from the wire, in memory of its own."""
    how = given.narrow
    if how is not None and how.wire == "bfloat16" and how.indices is None:
        # Faster than NumPy.
        halves = to_torch(given._replace(dtype="bfloat16", narrow=None))
        return halves.to(getattr(torch, given.dtype))
    if given.dtype == "bfloat16":
        bits = given._replace(dtype="int16", narrow=how and how._replace(wire="int16"))
        return _owned(tensor.unpack(bits)).view(torch.bfloat16)
    return _owned(tensor.unpack(given))


def _owned(array: Any) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
