"""A reply's bytes as a Result. No sockets here."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from lossclient.headers import MAX_REMEMBERED, Described, PlainReply, plain_reply
from losswire.errors import InternalError
from losswire.frame import Parts
from losswire.runs import Run
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
    grads = {one.name: leaf(one.found(payloads)) for one in said.grads}
    return _result(said, timings, losses, grads)


def _result(
    said: PlainReply, timings: Timings, losses: dict[str, Any], grads: dict[str, Any]
) -> Result:
    """The result in a reply that is remembered."""
    # What is frozen sets each attribute by a call of its own: three times as long, for each of a list.
    result = object.__new__(Result)
    result.__dict__.update(
        loss=_loss(losses, said.metrics),
        losses=losses,
        grads=grads,
        state=None,
        timings=timings,
        metrics=said.metrics,
        kept={},
    )
    return result


def decode_replies(
    replies: Run,
    leaf: Callable[[TensorBytes], Any],
    leaves: Callable[[TensorBytes], Sequence[Any]],
) -> list[Result]:
    """The results in ComputeResponses that differ in their numbers alone.

    Parameters:
        replies: they.
        leaf: what a tensor becomes.
        leaves: the same of several tensors that stand in one.

    Raises:
        InternalError: they are none of such a message.
    """
    lengths = tuple(one.shape[1] for one in replies.payloads)
    known = _plain(replies.header, lengths) if len(replies.header) <= MAX_REMEMBERED else None
    if known is None:
        return [decode_reply(parts, leaf) for _, parts in replies.apart()]
    said, timings = known

    def columns(described: Sequence[Described]) -> Iterator[dict[str, Any]]:
        names = [one.name for one in described]
        found = [leaves(one.stacked(replies.payloads)) for one in described]
        if len(found) == 1:
            return ({names[0]: own} for own in found[0])
        if not found:
            return ({} for _ in replies.ids)
        return (dict(zip(names, own, strict=True)) for own in zip(*found, strict=True))

    return [
        _result(said, timings, losses, grads)
        for losses, grads in zip(columns(said.losses), columns(said.grads), strict=True)
    ]


def _timings(took: pb.Timings) -> Timings:
    return Timings(
        queue=took.queue,
        decode=took.decode,
        compute=took.compute,
        encode=took.encode,
        batch=took.batch,
        fused=took.fused,
    )


def _loss(losses: dict[str, Any], metrics: Iterable[str]) -> Any:
    """The only loss as it is, or the sum of all that are no metrics; a lone metric if it is all."""
    if len(losses) == 1:
        (only,) = losses.values()
        return total(only) if isinstance(only, list) else only
    names = losses.keys() - set(metrics)
    parts = [losses[name] for name in names]
    alone = len(parts) == 1 and not isinstance(parts[0], list)
    return parts[0] if alone else total(parts)


def total(losses: Any) -> Any:
    """The sum of all that stands in a tree of losses."""
    if isinstance(losses, dict | list):
        return sum(total(one) for one in (losses.values() if isinstance(losses, dict) else losses))
    return losses if isinstance(losses, float) else losses.sum()
