"""A remote loss as an nn.Module: `criterion(pred, target, weight, avg_factor=n).backward()`.

A reduced loss is one call: value and gradient come together, and backward
multiplies the gradient by whatever upstream gradient there is, which is exact
because all of it is linear. An unreduced loss is a call for the value and,
since its upstream gradient may be anything, a second call in backward.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossclient.call import Result, decode_reply, encode_call
from lossclient.client import Client
from losswire import tensor
from losswire.tensor import TensorBytes


class RemoteLoss(nn.Module):
    """A loss computed by a server, with MMDetection's call signature and a grad_fn.

    Inputs may be on any device; the loss comes back on that of `pred`. Works
    under autocast and with GradScaler: a loss of half-precision inputs is
    float32, and float16 inputs travel as float32, so that a small gradient is
    scaled before it is rounded and not after.

    Parameters:
        cfg: MMDetection's config dict, such as dict(type="FocalLoss").
        client: from `lossclient.connect`; it is not closed with the module.
        timeout: seconds a call may take, retries included.
    """

    def __init__(self, cfg: Mapping[str, Any], client: Client, *, timeout: float = 30.0) -> None:
        super().__init__()
        self.cfg = dict(cfg)
        self.client = client
        self.timeout = timeout

    # torch.compile cannot look into a call over a socket; it goes round it.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        pred: Any,
        target: Any,
        weight: Any = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        **more: Any,
    ) -> Tensor:
        """The loss: float [] if reduced, else shaped as the loss gives it.

        Parameters:
            pred: tensor, or nested dicts and lists of tensors.
            target: likewise.
            weight: likewise, of the shapes the loss takes.
            avg_factor: divisor of a mean; under DDP the mean over all workers, as upstream.
            reduction_override: "none", "mean" or "sum", in place of the config's.
            more: the loss's own inputs, by upstream's names.

        Raises:
            LossError: as `Client.compute`, also from backward.
        """
        if isinstance(weight, int | float):
            weight = torch.tensor(float(weight))
        inputs = {"pred": pred, "target": target, "weight": weight, **more}
        reduction = reduction_override or self.cfg.get("reduction", "mean")
        call = _Call(
            self.client,
            self.timeout,
            self.cfg,
            inputs,
            reduced=reduction != "none",
            avg_factor=None if avg_factor is None else float(avg_factor),
            reduction_override=reduction_override,
        )
        loss: Tensor = _Remote.apply(call, *call.tensors)  # type: ignore[no-untyped-call]
        return loss

    def extra_repr(self) -> str:
        """What repr() shows between the parentheses."""
        return f"{self.cfg}, target={self.client.transport.target!r}"


class _Call:
    """One forward's call, apart from its tensors, which autograd keeps."""

    def __init__(
        self,
        client: Client,
        timeout: float,
        cfg: Mapping[str, Any],
        inputs: Mapping[str, Any],
        *,
        reduced: bool,
        **options: Any,
    ) -> None:
        self._client = client
        self._timeout = timeout
        self._cfg = cfg
        self._inputs = inputs
        self._options = options
        self.reduced = reduced
        self.tensors = list(_tensors(inputs))
        self.wrt = [
            name
            for name, tree in inputs.items()
            if torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(tree))
        ]

    def send(
        self, tensors: tuple[Tensor, ...], wrt: list[str], upstream: Tensor | None = None
    ) -> Result:
        """Ask the server, with these tensors in the places of the call's own."""
        following = iter(tensors)
        inputs = _map(lambda _: to_bytes(_widened(next(following))), self._inputs)
        message = encode_call(
            self._cfg,
            inputs,
            wrt=wrt,
            grad_output=None if upstream is None else to_bytes(upstream),
            **self._options,
        )
        return decode_reply(self._client.send(message, self._timeout), to_torch)

    def aligned(self, result: Result, like: tuple[Tensor, ...]) -> list[Tensor | None]:
        """The result's gradients, one for each tensor of the call, on that tensor's device."""
        found = (
            grad
            for name, tree in self._inputs.items()
            for grad in _gradients(tree, result.grads.get(name))
        )
        return [
            None if grad is None else grad.to(own.device)
            for grad, own in zip(found, like, strict=True)
        ]


class _Remote(torch.autograd.Function):
    """The value of a call, and the gradient of each of its tensors."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        ctx.call = call
        ctx.fetched = call.reduced
        result = call.send(tensors, call.wrt if call.reduced else [])
        kept = call.aligned(result, tensors) if call.reduced else tensors
        ctx.save_for_backward(*kept)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        loss: Tensor = result.loss
        return loss.to(tensors[0].device)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a remote loss has no second derivative: call backward() or autograd.grad() "
                "without create_graph=True"
            )
        (scale,) = upstream
        grads = ctx.saved_tensors
        if not ctx.fetched:
            result = ctx.call.send(grads, ctx.call.wrt, scale)
            grads = ctx.call.aligned(result, grads)
            scale = scale.new_ones(())
        return (
            None,
            *(
                None if grad is None else _scaled(grad, scale).to(dtype)
                for grad, dtype in zip(grads, ctx.dtypes, strict=True)
            ),
        )


def _scaled(grad: Tensor, scale: Tensor) -> Tensor:
    """The product, in float32 at least, so that it is rounded once."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    return grad.to(wide) * scale.to(wide)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.float16 else tensor


def to_bytes(given: Tensor) -> TensorBytes:
    """A tensor ready for the wire; on the CPU and contiguous it is viewed, else copied."""
    own = given.detach().cpu().resolve_conj().resolve_neg()
    if own.dtype is torch.bfloat16:
        return tensor.pack(own.view(torch.int16).numpy())._replace(dtype="bfloat16")
    return tensor.pack(own.numpy())


def to_torch(given: TensorBytes) -> Tensor:
    """A tensor from the wire, in memory of its own."""
    if given.dtype == "bfloat16":
        bits = torch.from_numpy(tensor.unpack(given._replace(dtype="int16")).copy())
        return bits.view(torch.bfloat16)
    return torch.from_numpy(tensor.unpack(given).copy())


def _map(change: Callable[[Tensor], Any], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _map(change, item) for key, item in tree.items()}
    return [_map(change, item) for item in tree] if isinstance(tree, list | tuple) else tree


def _items(tree: Any) -> Iterable[tuple[Any, Any]]:
    """Key and child of each branch; nothing of a leaf."""
    if isinstance(tree, Mapping):
        return tree.items()
    return enumerate(tree) if isinstance(tree, list | tuple) else ()


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    for _, child in _items(tree):
        yield from _tensors(child)


def _gradients(tree: Any, grads: Any) -> Iterator[Any]:
    """For each tensor of the tree what stands at its place in `grads`, or None."""
    if isinstance(tree, Tensor):
        yield grads
    for key, child in _items(tree):
        yield from _gradients(child, None if grads is None else grads[key])
