"""What a header says of a call, looked up and checked once.

A trainer sends the same header step after step: same config, same shapes. So all
that does not depend on the tensors' bytes is remembered by the header's own
bytes: the loss, the options, and the inputs' trees with blanks for tensors.
"""

import functools
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from lossserver.building import loss_of
from lossserver.losses.loss import Call, Loss, check_names, name_of
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import RefusedError
from lossserver.source import Place, Source, source
from lossserver.tree import map_tensors, precision, tensors
from lossserver.wishes import Wishes, wishes_of
from losswire.errors import LossError, MessageError, SpecError, TensorError
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import MAX_DEPTH, Reader

#: Bytes and tensors of a header that is remembered; 1,024 are: some 10 MB.
MAX_REMEMBERED = 1 << 12
MAX_TENSORS = 16

#: The tag of a header's avg_factor, which our client writes last; eight bytes follow.
_AVG_FACTOR = bytes((pb.ComputeHeader.AVG_FACTOR_FIELD_NUMBER << 3 | 1,))

#: The wire's priorities as a job's, 0 before 1 before 2; what it does not know is 1, the usual.
PRIORITIES = {pb.PRIORITY_HIGH: 0, pb.PRIORITY_UNSPECIFIED: 1, pb.PRIORITY_LOW: 2}

#: Names of `Call`'s own options; what is refused of them is the spec's fault, not a tensor's.
_OPTIONS = {"reduction_override", "avg_factor", "wrt", "ignore_index", "inputs", "state"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """A call without its tensors' bytes.

    Attributes:
        name: the loss's name in the registry.
        loss: what to compute.
        priority: 0 goes before 1, the usual, and that before 2.
        blank: the call, with tensors that have shape and dtype but no memory.
        sources: where each of those comes from, in order.
        elements: of all inputs.
        dtype: what to compute in.
        wishes: how the answer is to be written.
        spread: bytes by which the tensors are more than their payloads.
    """

    name: str
    loss: Loss
    priority: int
    blank: Call
    sources: Sequence[Source]
    elements: int
    dtype: torch.dtype
    wishes: Wishes
    spread: int

    def lent(self, payloads: Sequence[Buffer | Tensor]) -> int:
        """Bytes of payloads that are read where they lie."""
        found = [source.payload for source in self.sources if source.reads_in_place(payloads)]
        return sum(len(payloads[number]) for number in found)

    def filled(self, payloads: Sequence[Buffer | Tensor]) -> Call:
        """The call with the tensors of these payloads."""
        return self.of([one.tensor(payloads) for one in self.sources])

    def of(self, given: Sequence[Tensor]) -> Call:
        """The call with these tensors."""
        flat = iter(given)
        blank = self.blank
        inputs, grad_output, state = map_tensors(
            lambda _: next(flat), [blank.inputs, blank.grad_output, blank.state]
        )
        return Call(
            inputs=inputs,
            wrt=blank.wrt,
            reduction_override=blank.reduction_override,
            avg_factor=blank.avg_factor,
            grad_output=grad_output,
            state=state,
        )


def outline(serialised: bytes, lengths: tuple[int, ...]) -> Outline:
    """What a serialised header says of a call whose payloads have these lengths.

    Raises:
        RequestError: whatever is wrong with it, but for the values of tensors.
    """
    if len(serialised) > MAX_REMEMBERED or len(lengths) > MAX_TENSORS:
        return _outline(serialised, lengths)
    if serialised[-9:-8] == _AVG_FACTOR:
        # It changes from step to step. What stands before it is a header of its own, or this is the
        # end of something else.
        with suppress(LossError):
            said = _remembered(serialised[:-9], lengths, averages=True)
            (factor,) = struct.unpack("<d", serialised[-8:])
            return replace(said, blank=replace(said.blank, avg_factor=factor))
    return _remembered(serialised, lengths)


def _outline(serialised: bytes, lengths: tuple[int, ...], *, averages: bool = False) -> Outline:
    header = header_of(serialised)
    if averages:
        header.avg_factor = 1.0  # one or another
    name, loss = loss_of(header.config.SerializeToString(deterministic=True))
    sources: list[Source] = []
    blanks: list[Tensor] = []

    def blank_of(given: TensorBytes) -> Tensor:
        sources.append(source(given))
        blanks.append(torch.empty(given.shape, dtype=getattr(torch, given.dtype), device="meta"))
        return blanks[-1]

    places: Any = [Place(index, length) for index, length in enumerate(lengths)]
    reader = Reader(places, blank_of)
    blank = _blank(header, reader)
    reader.finish()
    _check_wrt(blank)
    try:
        check_names(loss, blank, name)
    except RefusedError as refusal:
        raise refused(refusal) from None
    return Outline(
        name=name,
        loss=loss,
        priority=PRIORITIES.get(header.priority, 1),
        blank=blank,
        sources=_lent(sources, blanks, loss, blank),
        elements=sum(tensor.numel() for tensor in tensors(dict(blank.inputs))),
        dtype=precision(blank.inputs),
        wishes=wishes_of(header),
        spread=max(0, sum(one.nbytes for one in blanks) - sum(lengths)),
    )


def _lent(
    sources: Sequence[Source], blanks: Sequence[Tensor], loss: Loss, call: Call
) -> list[Source]:
    """The sources; those of a pred whose gradient is wanted may be lent. All else is checked."""
    if not isinstance(loss, RowwiseLoss) or loss.checks_pred or "pred" not in call.wrt:
        return [*sources]
    wanted = {id(leaf) for leaf in tensors(call.inputs["pred"])}
    return [
        source._replace(lent=not source.wire and leaf.is_floating_point() and id(leaf) in wanted)
        for source, leaf in zip(sources, blanks, strict=True)
    ]


_remembered = functools.lru_cache(maxsize=1024)(_outline)


def header_of(serialised: bytes) -> pb.ComputeHeader:
    """The header itself.

    Raises:
        MessageError: the bytes are none.
    """
    try:
        return pb.ComputeHeader.FromString(serialised)
    except DecodeError:
        # The parser does not say which; it gives up at 100 levels of messages, 30 of ours.
        raise MessageError(
            f"must be a losswire.v1.ComputeHeader, lists and maps at most {MAX_DEPTH} deep",
            field="header",
            given=f"{len(serialised)} bytes",
        ) from None


def _blank(header: pb.ComputeHeader, reader: Reader) -> Call:
    """The call, with whatever the reader's leaves are in place of tensors."""
    read = {name: reader.read(value, name) for name, value in header.inputs.items()}
    # An input that is null is one that is not there, as a client of ours sends none.
    inputs = {name: given for name, given in read.items() if given is not None}
    if not tensors(inputs):
        raise TensorError(
            "a call must have at least one tensor (a list of numbers is none)",
            field="inputs",
            given="none",
        )
    upstream: Any = {}
    if header.HasField("grad_output"):
        upstream = reader.read(header.grad_output, "grad_output")
        upstream = upstream if isinstance(upstream, dict) else {"loss": upstream}
        for tree in upstream.values():
            _check_upstream(tree)
    return Call(
        inputs=inputs,
        wrt=frozenset(header.wrt),
        reduction_override=(
            header.reduction_override if header.HasField("reduction_override") else None
        ),
        avg_factor=header.avg_factor if header.HasField("avg_factor") else None,
        grad_output=upstream,
        state=reader.read(header.state, "state") if header.HasField("state") else None,
    )


def _check_upstream(tree: Any) -> None:
    leaves = tensors(tree)
    odd = [name_of(leaf.dtype) for leaf in leaves if not leaf.is_floating_point()]
    if odd or not leaves:
        raise TensorError(
            "must be a floating-point tensor, or one for each output",
            field="grad_output",
            given=odd[0] if odd else type(tree).__name__,
        )


def _check_wrt(call: Call) -> None:
    for wanted in sorted(call.wrt):
        if wanted not in call.inputs:
            raise SpecError(
                f"gradients can be asked for the inputs sent: {', '.join(sorted(call.inputs))}",
                field="wrt",
                given=wanted,
            )
        leaves = tensors(call.inputs[wanted])
        if not any(leaf.is_floating_point() for leaf in leaves):
            raise TensorError(
                "a gradient goes with a floating-point input",
                field=wanted,
                given=name_of(leaves[0].dtype) if leaves else "no tensor",
            )


def refused(refusal: RefusedError) -> LossError:
    """What a loss refuses of a call, as an error of the wire."""
    of_spec = refusal.field in _OPTIONS or refusal.field.startswith(("config.", "grad_output."))
    error = SpecError if of_spec else TensorError
    return error(refusal.rule, field=refusal.field, given=refusal.given)
