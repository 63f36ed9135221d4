"""A device that is not there: tensors that say they are on it, computed on the CPU all the same.

    with far_device() as reads:
        compute(jobs, DEVICE)

It is to a device what a rehearsal is to a play. As on CUDA, an operation raises
whose tensors are some here and some there, a scalar here excepted; so does
`.numpy()` of one there. Values are computed, so a loss may branch on them; what
reads them back, for which CUDA would be waited for, is noted in `reads`.

It cannot see what only CUDA's own kernels do: a dtype that one of them lacks,
rounding, an assertion of theirs, a pointer out of range. And it is stricter in
one thing, that an index may not be here for a tensor there, which CUDA copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

#: A type of device that no build of torch has kernels for, and whose gradients autograd takes in
#: the thread that asks for them.
DEVICE = torch.device("lazy")

HERE = torch.device("cpu")

#: Operations that may bring tensors from one device to another.
MOVES = {"aten::_to_copy", "aten::copy_"}

#: Operations whose result, or its shape, the host must know.
READS = {
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"),
        *("bincount", "_unique2", "unique_dim", "repeat_interleave"),
    )
}
BY_MASK = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class Far(Tensor):
    """A tensor that says it is on the device; `near` is what it holds."""

    near: Tensor

    @staticmethod
    def __new__(cls, near):
        """A tensor of the shape, strides and dtype of `near`."""
        far = Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=DEVICE,
        )
        far.near = near
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        """Only within `far_device` is there such a device."""
        raise AssertionError(f"{operation} outside of far_device")


class _Operations(TorchDispatchMode):
    """Runs each operation on what the tensors hold, and sees to it that they are of one device."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = operation._schema.name
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        far = [one for one in given if isinstance(one, Far)]
        device = kwargs.get("device")
        if far and name not in MOVES:
            near = [list(one.shape) for one in given if not isinstance(one, Far) and one.dim()]
            assert not near, f"{name} of tensors on the device and of {near} on the CPU"
            masks = name in BY_MASK and any(one.dtype is torch.bool for one in given[1:])
            self.reads.extend([name] if name in READS or masks else [])
        if device is not None:
            kwargs["device"] = HERE
        # What is copied into stays where it is.
        decides = given[:1] if name in MOVES else given
        goes_far = (
            any(isinstance(one, Far) for one in decides) if device is None else device == DEVICE
        )
        found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
        # What an operation writes into, it returns: the same tensor, and not another that holds it.
        known = {id(one.near): one for one in far}
        return tree_map(lambda one: _sent(one, known), found) if goes_far else found


class _Python(TorchFunctionMode):
    """What torch does in C++ beneath all operations, and for which CUDA has its own ways."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor:
            device = kwargs.pop("device", None)
            return torch.tensor(*args, **kwargs).to(HERE if device is None else device)
        if function is Tensor.new_tensor:
            like, data = args
            return torch.tensor(data, dtype=kwargs.get("dtype", like.dtype)).to(like.device)
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            own, places, *values = args
            places = torch.tensor(places).to(own.device) if isinstance(places, list) else places
            values = [x if isinstance(x, Tensor) else own.new_full((), x) for x in values]
            args = own, places, *values
        if function is Tensor.tolist:
            return args[0].detach().cpu().tolist()
        if function is Tensor.numpy:
            assert not isinstance(args[0], Far), "NumPy has no tensors on the device"
        return function(*args, **kwargs)


@contextmanager
def far_device() -> Iterator[list[str]]:
    """Let there be the device; gives the names of the operations that read values back, in order."""
    reads: list[str] = []
    with _Python(), _Operations(reads):
        yield reads


def _held(value):
    return value.near if isinstance(value, Far) else value


def _sent(value, known):
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else Far(value)
