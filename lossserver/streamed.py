"""A large call computed while its pred is coming in.

    unseen      the job of a call whose pred has not come, if it can be known without
    stream      rows in, their gradient out

What is known without: all that comes after the formula is linear in its rows and
does not read them. A loss is asked for its rows with a pred that has a shape, but
no values (torch's meta device). Where it looks at values all the same, as those do
that refuse probabilities above 1, torch raises, and the call is put together first.
"""

import asyncio
import time
import warnings
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import torch
from torch import Tensor

from lossserver.answer import Asker
from lossserver.decode import job_of
from lossserver.incoming import Incoming
from lossserver.job import Computed, Job, Result
from lossserver.losses.loss import name_of
from lossserver.losses.rows import RowwiseLoss
from lossserver.outgoing import Outgoing
from lossserver.outline import Outline
from lossserver.pool import Pool
from lossserver.slices import AHEAD, Slice, Slices, Total, can_be_cut, in_order
from lossserver.wishes import NO_WISHES, to_bytes
from losswire import tensor
from losswire.piece import LEAST, MOST
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

#: Slices that a streamed call holds at most, of pred and as much of its gradient: on their way
#: through the pool, coming in, and going out. And the bytes of them, if a row is no larger.
SLICES = 2 * (AHEAD + 2)
HELD = SLICES * MOST

#: Numbers of an answer's payloads.
LOSS, GRAD = 0, 1

with warnings.catch_warnings():
    # torch warns, once, that the buffer must not be written. It is not: pred is only read.
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


def may_be_streamed(said: Outline, header: pb.ComputeHeader) -> bool:
    """Whether the values of pred, which is one tensor, are all that is missing to say so for sure."""
    pred = said.blank.inputs.get("pred")
    return (
        isinstance(said.loss, RowwiseLoss)
        and isinstance(pred, Tensor)
        and pred.dim() > 0
        and pred.nbytes > max(2 * LEAST, SLICES * _row(pred))
        and said.blank.wrt <= {"pred"}
        and said.wishes == NO_WISHES
        and not header.inputs["pred"].tensor_value.wire
    )


def unseen(
    said: Outline,
    payloads: Sequence[Buffer | Tensor],
    asker: Asker,
    future: "asyncio.Future[Result]",
) -> Job | None:
    """The job of a call, among whose payloads a blank stands for pred; None if its values are needed.

    Raises:
        RequestError: whatever of the other tensors does not fit the loss.
    """
    deadline = None if asker.remaining is None else time.monotonic() + asker.remaining
    try:
        job = job_of(said, said.filled(payloads), deadline, future, asker.tenant)
    except (NotImplementedError, RuntimeError, TypeError):
        return None
    return job if can_be_cut(job) and _reads_as_sent(job) else None


def _reads_as_sent(job: Job) -> bool:
    """Whether the formula reads pred's rows as they are sent, and nothing else was made of pred."""
    rows = job.rows
    if rows is None or rows.inputs.get("pred") is not job.call.inputs["pred"]:
        return False
    ends = [one for one in (rows.cotangent.weight, rows.cotangent.upstream) if one is not None]
    return sum(leaf.is_meta for leaf in [*rows.leaves, *ends]) == 1


def held(job: Job) -> int:
    """Bytes of pred and its gradient that are held while the call is computed."""
    return SLICES * max(MOST, _row(job.call.inputs["pred"]))


def _row(pred: Tensor) -> int:
    return pred.nbytes // max(1, len(pred))


async def stream(
    job: Job, number: int, incoming: Incoming, outgoing: Outgoing, pool: Pool
) -> tuple[Result, pb.ResultHeader]:
    """Compute a call while it comes in. All of the answer is sent but its header.

    Parameters:
        job: the call's, without the values of pred.
        number: of pred's payload.
        incoming: where pred comes from.
        outgoing: where the answer goes.
        pool: where it is computed.

    Returns:
        What became of the call but for its gradient, and the header but for the timings.
    """
    total = Total()
    header = None
    async with aclosing(in_order(_slices(job, number, incoming), pool)) as found:
        async for done in found:
            total.add(done.result)
            computed = done.result.computed
            header = header or _header(job, computed)
            parts = [(LOSS, computed.losses["loss"]), *((GRAD, g) for g in computed.grads.values())]
            for where, part in parts:
                if part is not None and part.dim():
                    await outgoing.payload(where, to_bytes(part).buffer)
    await incoming.end()
    result = total.result()
    for loss in result.computed.losses.values():
        await outgoing.payload(LOSS, to_bytes(loss).buffer)
    assert header is not None  # noqa: S101  (there is a row)
    return result, header


async def _slices(job: Job, number: int, incoming: Incoming) -> AsyncGenerator[Slice]:
    """The slices of a job whose pred is coming in."""
    pred: Tensor = job.call.inputs["pred"]
    slices = Slices(job, MOST, moving=True)
    row = pred.nbytes // slices.count
    least = max(LEAST, row)
    at = 0
    async for content in incoming.rows(number, pred.nbytes, row, least):
        rows = _tensor(content, pred)
        del content
        for part in rows.split(slices.each):
            yield slices.cut(at, at + len(part), part)
            at += len(part)


def _tensor(content: Buffer, like: Tensor) -> Tensor:
    """Rows over their own bytes, shaped like those of a tensor."""
    flat = torch.frombuffer(content, dtype=like.dtype)
    if flat.data_ptr() % like.itemsize:
        flat = flat.clone()  # in a message they begin anywhere
    return flat.view(-1, *like.shape[1:])


def _header(job: Job, computed: Computed) -> pb.ResultHeader:
    """The answer's header but for the timings, going by what became of some rows."""
    assert job.rows is not None  # noqa: S101  (for mypy)
    header = pb.ResultHeader()
    loss = computed.losses["loss"]
    shape = job.rows.cotangent.shape if loss.dim() else ()
    _describe(header.losses["loss"], loss, shape, LOSS)
    for name, grad in computed.grads.items():
        if grad is None:
            header.grads[name].null_value.SetInParent()
        else:
            _describe(header.grads[name], grad, job.call.inputs[name].shape, GRAD)
    return header


def _describe(into: pb.Value, part: Tensor, shape: Sequence[int], payload: int) -> None:
    given = TensorBytes(name_of(part.dtype), tuple(shape), b"")
    into.tensor_value.CopyFrom(tensor.describe(given, payload))
