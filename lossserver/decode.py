"""Message → Job: everything a stranger sent is looked up and checked here, on the CPU.

A call that leaves this file is known to be computable, so it may share a batch:
names are in the registry, shapes fit, class indices are in range. What the
registry and the losses refuse is translated into the wire's errors here, once.
"""

import asyncio
import functools
import math
import time
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from lossserver.job import Job, key_of
from lossserver.losses.loss import Call, Loss, check_names, name_of
from lossserver.losses.rows import Rows, RowwiseLoss
from lossserver.registry import LOSSES, RefusedError, UnknownNameError
from lossserver.tree import precision, tensors
from losswire import frame
from losswire.errors import LossError, MessageError, SpecError, TensorError, UnknownLossError
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import MAX_DEPTH, Reader

#: Bytes of a config. The longest in use, a class_weight of LVIS's 1,203 classes, has 14 KiB; and
#: a thousand built losses are kept.
MAX_CONFIG = 1 << 16

#: Bytes of a header from which a message is slow to decode however few it has: they may be a
#: thousand values, each of which costs some microseconds, or that many small tensors to check.
WORDY = 1 << 12

#: What computing an element takes at most, in floats of the precision it is computed in. Measured in
#: eager steps, over what the inputs take: 2 (L1), 3 (cross entropy), 8 (focal), 11 (quality focal).
#: Losses that compare pairs take more, the more the larger they are; they are computed alone.
TAKEN = 11

#: The wire's priorities as a job's, 0 before 1 before 2; what it does not know is 1, the usual.
USUAL = 1
PRIORITIES = {pb.PRIORITY_HIGH: 0, pb.PRIORITY_UNSPECIFIED: USUAL, pb.PRIORITY_LOW: 2}

#: Names of `Call`'s own options; what is refused of them is the spec's fault, not a tensor's.
_OPTIONS = {"reduction_override", "avg_factor", "wrt", "ignore_index", "inputs", "state"}


def decode(
    message: bytes, deadline: float | None, future: "asyncio.Future[Any]", tenant: str = ""
) -> Job:
    """The job that a serialised ComputeRequest asks for.

    Parameters:
        message: the request's bytes.
        deadline: monotonic seconds after which the caller no longer waits.
        future: where its result is to go.
        tenant: who asks.

    Raises:
        RequestError: whatever is wrong with it.
    """
    serialised, payloads = frame.read(message)
    header = _header(serialised)
    name, loss = _loss_of(header)
    reader = Reader(payloads, to_torch)
    call = _call(header, reader)
    reader.finish()
    _check_wrt(call)
    try:
        check_names(loss, call, name)
        rows = _rows(loss, call)
    except RefusedError as refusal:
        raise refused(refusal) from None
    elements = _elements(call, rows)
    return Job(
        name=name,
        loss=loss,
        call=call,
        rows=rows,
        key=object() if rows is None else key_of(rows, call),
        elements=elements,
        bytes=TAKEN * elements * precision(call.inputs).itemsize,
        tenant=tenant,
        priority=PRIORITIES.get(header.priority, USUAL),
        deadline=deadline,
        arrived=time.monotonic(),
        future=future,
    )


def slow(message: bytes) -> bool:
    """Whether `decode` may take long, even if the message is small.

    Raises:
        RequestError: what is wrong with it, as far as it has been looked at.
    """
    serialised, _ = frame.read(message)
    return len(serialised) >= WORDY or _loss_of(_header(serialised))[1].slow


def _header(serialised: bytes) -> pb.ComputeHeader:
    try:
        return pb.ComputeHeader.FromString(serialised)
    except DecodeError:
        # The parser does not say which; it gives up at 100 levels of messages, 30 of ours.
        raise MessageError(
            f"must be a losswire.v1.ComputeHeader, lists and maps at most {MAX_DEPTH} deep",
            field="header",
            given=f"{len(serialised)} bytes",
        ) from None


def _loss_of(header: pb.ComputeHeader) -> tuple[str, Loss]:
    config = header.config.SerializeToString(deterministic=True)
    if len(config) > MAX_CONFIG:
        raise SpecError(
            f"must have at most {MAX_CONFIG} bytes", field="config", given=f"{len(config)} bytes"
        )
    return _loss(config)


def _rows(loss: Loss, call: Call) -> Rows | None:
    if isinstance(loss, RowwiseLoss):
        return loss.rows(call)
    loss.check(call)
    return None


def _elements(call: Call, rows: Rows | None) -> int:
    """The size of a job: elements of its inputs, or of its loss where that broadcasts to more."""
    given = sum(tensor.numel() for tensor in tensors(dict(call.inputs)))
    return given if rows is None else max(given, math.prod(rows.cotangent.shape))


def refused(refusal: RefusedError) -> LossError:
    """What a loss refuses of a call, as an error of the wire."""
    of_spec = refusal.field in _OPTIONS or refusal.field.startswith(("config.", "grad_output."))
    error = SpecError if of_spec else TensorError
    return error(refusal.rule, field=refusal.field, given=refusal.given)


def to_torch(given: TensorBytes) -> Tensor:
    """A tensor of its own memory: the message's is read-only, and torch has no such tensors."""
    if given.dtype == "bool":
        # A bool that is neither 0 nor 1 would be undefined behaviour in C++.
        own = (np.frombuffer(given.buffer, np.uint8) != 0).reshape(given.shape)
    else:
        wire = "int16" if given.dtype == "bfloat16" else given.dtype
        own = np.frombuffer(given.buffer, wire).reshape(given.shape).copy()
    tensor = torch.from_numpy(own)
    return tensor.view(torch.bfloat16) if given.dtype == "bfloat16" else tensor


@functools.lru_cache(maxsize=1024)
def _loss(serialised: bytes) -> tuple[str, Loss]:
    """The loss of a serialised config, and its name. Trainers send the same few again and again."""
    sent = pb.Value.FromString(serialised)
    config = Reader([], to_torch).read(sent, "config") if serialised else None
    if not isinstance(config, dict):
        raise SpecError(
            'must be a map such as {"type": "L1Loss"}',
            field="config",
            given="nothing" if config is None else type(config).__name__,
        )
    try:
        loss = LOSSES.build(config)
    except UnknownNameError as error:
        raise UnknownLossError(str(error), field="config.type") from None
    except RefusedError as refusal:
        raise SpecError(
            refusal.rule, field=f"config.{refusal.field}", given=refusal.given
        ) from None
    return LOSSES.named(config), loss


def _call(header: pb.ComputeHeader, reader: Reader) -> Call:
    read = {name: reader.read(value, name) for name, value in header.inputs.items()}
    # An input that is null is one that is not there, as a client of ours sends none.
    inputs = {name: given for name, given in read.items() if given is not None}
    if not any(True for _ in tensors(inputs)):
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
    leaves = [tree] if isinstance(tree, Tensor) else list(tensors(tree))
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
        leaves = list(tensors(call.inputs[wanted]))
        if not any(leaf.is_floating_point() for leaf in leaves):
            raise TensorError(
                "a gradient goes with a floating-point input",
                field=wanted,
                given=name_of(leaves[0].dtype) if leaves else "no tensor",
            )
