"""A remote loss as an nn.Module: `criterion(pred, target, weight, avg_factor=n).backward()`.

A reduced loss is one call: value and gradient come together, and backward
multiplies the gradient by whatever upstream gradient there is, which is exact
because all of it is linear. An unreduced loss, or one of several parts whose
upstream gradients are not all the same, is a second call in backward.

A loss that remembers has its state in buffers of the module, so that it is in
the trainer's checkpoint; the server keeps nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lossclient.call import encode_call, numbers
from lossclient.client import Client
from lossclient.reply import Result, decode_reply
from lossclient.torch_bytes import to_bytes, to_torch
from lossclient.torch_state import Remembering
from lossclient.torch_tree import gradients_of, map_tree, tensors_of
from losswire.resident import Handle

#: Stands where a tensor was, in a tree that is kept for its shape alone.
PLACE = torch.empty(0)


class RemoteLoss(Remembering):
    """A loss computed by a server, with MMDetection's call signature and a grad_fn.

    Inputs may be on any device; the loss comes back on that of `pred`. Works
    under autocast and with GradScaler: a loss of half-precision inputs is
    float32, and float16 inputs travel as float32, so that a small gradient is
    scaled before it is rounded and not after.

    What a loss remembers (SeesawLoss, GHMC, EQLV2Loss) is in buffers by upstream's
    names from the first call on, in state_dict() and back from it; each forward
    with the module moves it on by one step, whether or not there is a backward.
    The first forward after a state was loaded into a new module is two calls.

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
        target: Any = None,
        weight: Any = None,
        avg_factor: float | Tensor | Mapping[str, float | Tensor] | None = None,
        reduction_override: str | Mapping[str, str] | None = None,
        **more: Any,
    ) -> Any:
        """The loss: float [] if reduced, else shaped as the loss gives it; of several parts a dict.

        A part that has a value a level or an image is a list, as upstream's heads give it.

        Parameters:
            pred: tensor, or nested dicts and lists of tensors.
            target: likewise.
            weight: likewise, of the shapes the loss takes.
            avg_factor: divisor of a mean; under DDP the mean over all workers, as upstream. For a
                sum of losses also a dict of them by part.
            reduction_override: "none", "mean" or "sum", in place of the config's; likewise.
            more: the loss's own inputs, by upstream's names.

        Raises:
            LossError: as `Client.compute`, also from backward.
        """
        if isinstance(weight, int | float):
            weight = torch.tensor(float(weight))
        inputs = {"pred": pred, "target": target, "weight": weight, **more}
        tensors = tuple(tensors_of(inputs))
        options = {
            "avg_factor": None if avg_factor is None else numbers(avg_factor, "avg_factor"),
            "reduction_override": reduction_override,
        }
        if self.guessed:
            self.settle(_Call(self, inputs, **options, state=None).send(tensors, []).state)
        call = _Call(self, inputs, **options, state=self.state())
        following = iter(_Remote.apply(call, *tensors))  # type: ignore[no-untyped-call]
        self.remember(call.next_state, tensors[0].device)
        losses = map_tree(lambda _: next(following), call.outputs)
        return losses["loss"] if losses.keys() == {"loss"} else losses

    def extra_repr(self) -> str:
        """What repr() shows between the parentheses."""
        return f"{self.cfg}, target={str(self.client.transport.targets)!r}"


class _Call:
    """One forward's call, apart from its tensors, which autograd keeps as long as it needs them.

    Attributes:
        wrt: names of the inputs that want gradients.
        outputs: by name, with a PLACE for each tensor; known when it was sent.
        metrics: names of those that are no loss; likewise.
        next_state: what is remembered after it; likewise.
    """

    def __init__(self, of: RemoteLoss, inputs: Mapping[str, Any], **options: Any) -> None:
        self._client = of.client
        self._timeout = of.timeout
        self._cfg = of.cfg
        self._inputs = map_tree(lambda _: PLACE, inputs)
        self._options = options
        self.outputs: dict[str, Any] = {}
        self.metrics: frozenset[str] = frozenset()
        self.next_state: Any = None
        self.wrt = [
            name
            for name, tree in inputs.items()
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_of(tree))
        ]

    @property
    def reduced(self) -> bool:
        """Whether each output is asked to be one number."""
        given = self._options["reduction_override"] or self._cfg.get("reduction", "mean")
        return "none" not in (given.values() if isinstance(given, Mapping) else [given])

    def send(
        self,
        tensors: tuple[Tensor, ...],
        wrt: list[str],
        upstream: dict[str, Any] | None = None,
    ) -> Result:
        """Ask the server, with these tensors in the places of the call's own."""
        message = encode_call(
            self._cfg,
            self._packed(iter(tensors)),
            wrt=wrt,
            grad_output=map_tree(to_bytes, upstream),
            terms=self._client.terms,
            **self._options | {"state": map_tree(to_bytes, self._options["state"])},
        )
        return decode_reply(self._client.send(message, self._timeout), to_torch)

    def _packed(self, following: Iterator[Tensor]) -> dict[str, Any]:
        """The inputs, with these tensors as they travel."""
        wires = self._client.terms.wires

        def packed(name: str, tree: Any) -> Any:
            wire = wires.get(name, "")
            return map_tree(lambda _: to_bytes(_widened(next(following)), wire), tree)

        return {name: packed(name, tree) for name, tree in self._inputs.items()}

    def take(self, result: Result) -> list[Tensor]:
        """Each tensor of the outputs; the rest of the result is noted."""
        self.outputs = {
            name: map_tree(lambda _: PLACE, tree) for name, tree in result.losses.items()
        }
        self.metrics, self.next_state = result.metrics, result.state
        return list(tensors_of(result.losses))

    def counts(self, losses: list[Tensor]) -> list[Tensor]:
        """Those of the outputs' tensors that are of metrics."""
        names = [name for name, tree in self.outputs.items() for _ in tensors_of(tree)]
        return [one for name, one in zip(names, losses, strict=True) if name in self.metrics]

    def aligned(self, result: Result, like: tuple[Tensor, ...]) -> list[Tensor | None]:
        """The result's gradients, one for each tensor of the call, on that tensor's device."""
        found = (
            grad
            for name, tree in self._inputs.items()
            for grad in gradients_of(tree, result.grads.get(name))
        )
        return [
            None if grad is None else grad.to(own.device)
            for grad, own in zip(found, like, strict=True)
        ]


class _Remote(torch.autograd.Function):
    """The outputs of a call, and the gradient of each of its tensors."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        result = call.send(tensors, call.wrt if call.reduced else [])
        losses = call.take(result)
        ctx.fetched = call.reduced and all(loss.numel() == 1 for loss in losses)
        grads = call.aligned(result, tensors) if ctx.fetched else [None] * len(tensors)
        # Of a single number the gradients are all that backward can need.
        again = () if ctx.fetched and len(losses) == 1 else tensors
        ctx.save_for_backward(*grads, *again)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        placed = [loss.to(tensors[0].device) for loss in losses]
        ctx.mark_non_differentiable(*call.counts(placed))
        return tuple(placed)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a remote loss has no second derivative: call backward() or autograd.grad() "
                "without create_graph=True"
            )
        count = len(ctx.dtypes)
        grads, tensors = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        following = iter(upstream)
        given = {
            name: map_tree(lambda _: next(following), output)
            for name, output in ctx.call.outputs.items()
        }
        wanted = {name: tree for name, tree in given.items() if name not in ctx.call.metrics}
        scale, *others = tensors_of(wanted)
        if not ctx.fetched or any(bool(other != scale) for other in others):
            result = ctx.call.send(tensors, ctx.call.wrt, wanted)
            grads = ctx.call.aligned(result, tensors)
            scale = scale.new_ones(())
        return (
            None,
            *(
                None if grad is None else _scaled(grad, scale).to(dtype)
                for grad, dtype in zip(grads, ctx.dtypes, strict=True)
            ),
        )


def _scaled(grad: Tensor, scale: Tensor) -> Tensor:
    """The product with one number, in float32 at least, so that it is rounded once."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    return grad.to(wide) * scale.reshape(()).to(wide)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.float16 else tensor


def put(client: Client, given: Tensor, timeout: float | None = 30.0) -> Handle:
    """`client.put` of a tensor of any device and dtype. No gradient will flow into it."""
    return client.put(to_bytes(given), timeout)
