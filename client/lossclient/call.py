"""A call as bytes, and a reply's bytes as a Result. No sockets here."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from lossclient.headers import MAX_REMEMBERED, PlainReply, plain_call, plain_reply
from lossclient.terms import USUAL, Terms, WireDtype
from losswire import value
from losswire.errors import InternalError, SpecError
from losswire.frame import Parts
from losswire.narrow import exact, rounded
from losswire.resident import Handle, sorted_out
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the server spent its time on a call, in seconds, and in which company.

    Attributes:
        queue: from ready to compute to taken into a batch.
        decode: reading and checking the request.
        compute: formula and gradient of the whole batch the call was part of.
        encode: writing the reply.
        batch: calls computed together, this one included.
        fused: a fused kernel computed it, not the formula step by step.
    """

    queue: float
    decode: float
    compute: float
    encode: float
    batch: int = 1
    fused: bool = False


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a call gave.

    Attributes:
        loss: a float, or an array if unreduced; the sum of all parts of a loss that has parts; a
            metric if that is all there is.
        losses: each part by name, a list where there is one a level or image; {"loss": ...} for
            a loss without parts. A head's counts and recalls are here, too, and not in `loss`.
        grads: for each name in `wrt` a tree like that input, each array of that input's dtype;
            None where no gradient reaches.
        state: what to send as `state` with the next call, for a loss that remembers.
        timings: where the server spent its time.
        metrics: names of the outputs that are no loss: counts, recalls, targets.
        kept: where `grad_keep` was asked for, the share of each gradient's sum of squares that was
            sent: {"pred": 0.996}, or {"pred.cls_scores[0]": ..., ...} of a tree.
    """

    loss: Any
    losses: dict[str, Any]
    grads: dict[str, Any]
    state: Any
    timings: Timings
    metrics: frozenset[str] = frozenset()
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def grad(self) -> Any:
        """The gradient of `pred`; None if it was not asked for."""
        return self.grads.get("pred")


def encode_call(
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    *,
    wrt: Iterable[str] = ("pred",),
    avg_factor: float | Mapping[str, float] | None = None,
    reduction_override: str | Mapping[str, str] | None = None,
    grad_output: Any = None,
    state: Any = None,
    terms: Terms = USUAL,
) -> Parts:
    """The parts of the ComputeRequest. Inputs that are None are left out.

    Raises:
        SpecError, TensorError: something that cannot travel.
    """
    # Of a generator there is one look.
    wrt = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not isinstance(reduction_override, str | Mapping | None):
        raise SpecError("must be a text", field="reduction_override", given=reduction_override)
    if grad_output is None and state is None and terms.plain:
        known = plain_call(config, inputs, wrt, avg_factor, reduction_override, terms)
        if known is not None:
            return known
    payloads: list[Buffer] = []
    header = pb.ComputeHeader(config=value.pack(plain(config), [], "config"), wrt=wrt)
    terms.write(header)
    wires = terms.wires
    for name, given in inputs.items():
        if given is not None:
            written = functools.partial(_written, wires.get(name, ""))
            header.inputs[name].CopyFrom(value.pack(given, payloads, name, written=written))
    _set_options(header, payloads, avg_factor=avg_factor, reduction_override=reduction_override)
    if grad_output is not None:
        if not isinstance(grad_output, dict | TensorBytes | Handle | int | float):
            grad_output = np.asarray(grad_output)
        header.grad_output.CopyFrom(value.pack(_upstream(grad_output), payloads, "grad_output"))
    if state is not None:
        header.state.CopyFrom(value.pack(state, payloads, "state"))
    return sorted_out(header, payloads)


def _written(wire: str, given: TensorBytes) -> TensorBytes:
    """A tensor in as few bytes as it may have."""
    return exact(rounded(given, wire) if wire else given)


def call_message(
    cfg: Mapping[str, Any],
    pred: Any,
    target: Any = None,
    weight: Any = None,
    avg_factor: float | Mapping[str, float] | None = None,
    reduction_override: str | Mapping[str, str] | None = None,
    *,
    grad_output: Any = None,
    wrt: Iterable[str] = ("pred",),
    state: Any = None,
    terms: Terms = USUAL,
    wire_dtype: WireDtype = None,
    grad_keep: float | None = None,
    **more: Any,
) -> Parts:
    """The parts of the ComputeRequest of `Client.compute` with these arguments."""
    return encode_call(
        cfg,
        {"pred": _arrays(pred), "target": _arrays(target), "weight": _arrays(weight), **more},
        wrt=wrt,
        avg_factor=avg_factor,
        reduction_override=reduction_override,
        grad_output=grad_output,
        state=state,
        terms=terms.but(wire_dtype, grad_keep),
    )


def _arrays(value: Any) -> Any:
    """Bare numbers as arrays: a pred or weight may be one."""
    return np.asarray(value) if isinstance(value, int | float | np.generic) else value


def _set_options(header: pb.ComputeHeader, payloads: list[Buffer], **options: Any) -> None:
    """An option for all parts is one of the call; a map of them by part is an input."""
    for name, given in options.items():
        if given is None:
            continue
        own = numbers(given, name) if name == "avg_factor" else given
        if isinstance(own, Mapping):
            header.inputs[name].CopyFrom(value.pack(plain(own), payloads, name))
        else:
            setattr(header, name, own)


def _upstream(tree: Any) -> Any:
    """An upstream gradient with its numbers as arrays."""
    if isinstance(tree, TensorBytes | Handle):
        return tree
    if isinstance(tree, dict):
        return {name: _upstream(one) for name, one in tree.items()}
    if isinstance(tree, list | tuple):
        return [_upstream(one) for one in tree]
    return np.asarray(float(tree)) if isinstance(tree, int | float | np.generic) else tree


def _loss(losses: dict[str, Any], metrics: Iterable[str]) -> Any:
    """The only loss as it is, or the sum of all that are no metrics; a lone metric if it is all."""
    names = losses if len(losses) == 1 else losses.keys() - set(metrics)
    parts = [losses[name] for name in names]
    alone = len(parts) == 1 and not isinstance(parts[0], list)
    return parts[0] if alone else total(parts)


def total(losses: Any) -> Any:
    """The sum of all that stands in a tree of losses."""
    if isinstance(losses, dict | list):
        return sum(total(one) for one in (losses.values() if isinstance(losses, dict) else losses))
    return losses if isinstance(losses, float) else losses.sum()


def numbers(given: Any, field: str) -> Any:
    """A number of any kind as a float, or a map of them.

    Raises:
        SpecError: something that is no number.
    """
    if isinstance(given, Mapping):
        return {part: numbers(one, f"{field}.{part}") for part, one in given.items()}
    try:
        return float(given)
    except (TypeError, ValueError, RuntimeError):  # the last is torch's, of several numbers
        raise SpecError("must be a number", field=field, given=repr(given)) from None


def plain(config: Any, depth: int = 0) -> Any:
    """A config with its arrays as lists: a class_weight is often an array."""
    if depth > value.MAX_DEPTH:
        return config  # which `value.pack` refuses; it may even contain itself
    if isinstance(config, Mapping):
        return {key: plain(item, depth + 1) for key, item in config.items()}
    if isinstance(config, list | tuple):
        return [plain(item, depth + 1) for item in config]
    return config.tolist() if isinstance(config, np.ndarray | np.generic) else config


def decode_reply(reply: Parts, leaf: Callable[[TensorBytes], Any]) -> Result:
    """The result in the parts of a ComputeResponse.

    Parameters:
        reply: its parts.
        leaf: what a tensor becomes.

    Raises:
        InternalError: they are none of such a message.
    """
    lengths = tuple(map(len, reply.payloads))
    known = _plain(reply.header, lengths) if len(reply.header) <= MAX_REMEMBERED else None
    if known is not None:
        return _plain_result(*known, reply.payloads, leaf)
    try:
        header = pb.ResultHeader.FromString(reply.header)
    except DecodeError:
        header = pb.ResultHeader()
    if not header.losses:
        raise InternalError(
            "a reply must be a losswire.v1.ComputeResponse", given=f"{reply.size} other bytes"
        )
    reader = Reader(reply.payloads, leaf)
    # A protobuf map has no order of its own.
    losses = {name: reader.read(header.losses[name], name) for name in sorted(header.losses)}
    return Result(
        loss=_loss(losses, header.metrics),
        losses=losses,
        grads={name: reader.read(given, name) for name, given in header.grads.items()},
        state=reader.read(header.state, "state") if header.HasField("state") else None,
        timings=_timings(header.timings),
        metrics=frozenset(header.metrics),
        kept=reader.energy,
    )


@functools.lru_cache(maxsize=64)
def _plain(header: bytes, lengths: tuple[int, ...]) -> tuple[PlainReply, Timings] | None:
    """What a plain reply says but for its tensors. Replies to calls sent together say the same."""
    known = plain_reply(header, lengths)
    return known and (known[0], _timings(pb.Timings.FromString(known[1])))


def _plain_result(
    said: PlainReply,
    timings: Timings,
    payloads: Sequence[Buffer],
    leaf: Callable[[TensorBytes], Any],
) -> Result:
    """The result in a reply that is remembered but for its tensors."""
    losses = {one.name: leaf(one.found(payloads)) for one in said.losses}
    return Result(
        loss=_loss(losses, said.metrics),
        losses=losses,
        grads={one.name: leaf(one.found(payloads)) for one in said.grads},
        state=None,
        timings=timings,
        metrics=said.metrics,
    )


def _timings(took: pb.Timings) -> Timings:
    return Timings(
        queue=took.queue,
        decode=took.decode,
        compute=took.compute,
        encode=took.encode,
        batch=took.batch,
        fused=took.fused,
    )
