"""Microbatches in a row whose losses are computed while the next one is on its way through the model.

    losses = pipelined(criterion, model, [(images, {"target": labels}), ...])

adds the same gradients, in the same order, to the same parameters as

    for images, call in batches:
        criterion(model(images), **call).backward()

and takes less time: a microbatch's bytes travel, and the server computes, during
the forward pass of the next. For that the graphs of two microbatches are in
memory at once.

The losses are asked for one after another, so that a loss that remembers sees
its microbatches in their order.
"""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossclient.torch_tree import map_tree, tensors_of


class _Begun(NamedTuple):
    """A microbatch whose loss was asked for.

    Attributes:
        inputs: those of the loss, in the model's graph.
        leaves: the same, apart from it.
        loss: on the leaves, when it is there.
    """

    inputs: Any
    leaves: Any
    loss: "Future[Any]"


def total(loss: Any) -> Tensor:
    """A loss as one number: the sum of what has a gradient of all its parts."""
    parts = [part for part in tensors_of(loss) if part.requires_grad]
    return torch.stack([part.sum() for part in parts]).sum()


def pipelined(
    criterion: Callable[..., Any],
    model: Callable[[Any], Any],
    batches: Iterable[tuple[Any, Mapping[str, Any]]],
    *,
    objective: Callable[[Any], Tensor] = total,
    ahead: int = 1,
) -> list[Any]:
    """The losses of all microbatches, without graph; their gradients are added to the parameters.

    Not for a model in DistributedDataParallel while it reduces gradients: there each
    forward pass must be followed by its own backward pass. Do all of it in no_sync().

    Parameters:
        criterion: a RemoteLoss.
        model: gives `pred` of what a microbatch has for it.
        batches: for each microbatch what the model gets, and what the criterion gets besides
            `pred`, by name: target, weight, avg_factor and so on.
        objective: the number to go backward from, made of a loss:
            `lambda loss: scaler.scale(loss) / 4`. It must be linear in the loss, as that is.
        ahead: forward passes that may be done before a loss is waited for; so many graphs more
            are in memory.

    Raises:
        LossError: as the criterion does; gradients of earlier microbatches are in the parameters.
        ValueError: `ahead` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1; given {ahead}")
    losses: list[Any] = []
    begun: deque[_Begun] = deque()
    # One thread: a loss that remembers must not be overtaken.
    with _asking() as asking:
        for given, call in batches:
            inputs = {"pred": model(given), **call}
            leaves = map_tree(_leaf, inputs)
            begun.append(_Begun(inputs, leaves, asking.submit(_asked(criterion, leaves))))
            if len(begun) > ahead:
                losses.append(_finish(begun.popleft(), objective))
        while begun:
            losses.append(_finish(begun.popleft(), objective))
    return losses


@contextlib.contextmanager
def _asking() -> Iterator[ThreadPoolExecutor]:
    """A thread that ends with the block; what it has not begun then is not begun."""
    executor = ThreadPoolExecutor(1, "lossclient-microbatch")
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _asked(criterion: Callable[..., Any], leaves: dict[str, Any]) -> Callable[[], Any]:
    """The loss of those inputs, for another thread.

    On a GPU it waits for what is queued now and for nothing that is queued later:
    the forward pass of the next microbatch must not hold up this one's bytes.
    """
    device = next((one.device for one in tensors_of(leaves) if one.is_cuda), None)
    grad = torch.is_grad_enabled()
    if device is None:
        return lambda: _computed(criterion, leaves, grad)
    ready = torch.cuda.current_stream(device).record_event()

    def work() -> Any:
        stream = _stream(device)
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            loss = _computed(criterion, leaves, grad)
        stream.synchronize()
        return loss

    return work


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for good: torch keeps a stream's memory for that stream."""
    return torch.cuda.Stream(device)


def _computed(criterion: Callable[..., Any], leaves: dict[str, Any], grad: bool) -> Any:
    with torch.set_grad_enabled(grad):  # a thread's own setting
        return criterion(**leaves)


def _finish(begun: _Begun, objective: Callable[[Any], Tensor]) -> Any:
    """Go backward through one microbatch; its loss without graph."""
    loss = begun.loss.result()
    if any(part.requires_grad for part in tensors_of(loss)):
        objective(loss).backward()
        owns, grads = [], []
        for own, leaf in zip(tensors_of(begun.inputs), tensors_of(begun.leaves), strict=True):
            if leaf.grad is not None:
                owns.append(own)
                grads.append(leaf.grad)
                if leaf.is_cuda:
                    # It was made on the other stream, and is read on this one.
                    leaf.grad.record_stream(torch.cuda.current_stream(leaf.device))
        torch.autograd.backward(owns, grads)
    return map_tree(Tensor.detach, loss)
