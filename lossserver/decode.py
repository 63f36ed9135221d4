"""Message → Job: everything a stranger sent is looked up and checked here, on the CPU.

A call that leaves this file is known to be computable, so it may share a batch:
names are in the registry, shapes fit, class indices are in range. What the
registry and the losses refuse is translated into the wire's errors here, once.
"""

import asyncio
import math
import time
from typing import Any, NamedTuple

from lossserver.job import Job, key_of
from lossserver.losses.loss import Call, Loss
from lossserver.losses.rows import Rows, RowwiseLoss
from lossserver.outline import Outline, outline, refused
from lossserver.registry import RefusedError
from losswire.frame import Parts

#: Bytes of a header from which a message is slow to decode however few it has: they may be a
#: thousand values, each of which costs some microseconds, or that many small tensors to check.
WORDY = 1 << 12

#: What computing an element takes at most, in floats of the precision it is computed in. Measured in
#: eager steps, over what the inputs take: 2 (L1), 3 (cross entropy), 8 (focal), 11 (quality focal).
#: Losses that compare pairs take more, the more the larger they are; they are computed alone.
TAKEN = 11


class Opened(NamedTuple):
    """A message taken apart, but not looked at more than can be done in a moment.

    Attributes:
        parts: its header, and its tensors' bytes.
        known: what the header says, if that has been looked at.
    """

    parts: Parts
    known: Outline | None

    @property
    def slow(self) -> bool:
        """Whether to decode it may take long, even if the message is small."""
        return self.known is None or self.known.loss.slow

    @property
    def copied(self) -> int:
        """Bytes that are copied to decode it."""
        lent = 0 if self.known is None else self.known.lent(self.parts.payloads)
        return self.parts.size - lent

    def outline(self) -> Outline:
        """What the header says."""
        return self.known or _outline(self.parts)


def opened(parts: Parts) -> Opened:
    """A ComputeRequest looked at, if that is done in a moment.

    Raises:
        RequestError: what is wrong with it, as far as it has been looked at.
    """
    return Opened(parts, None if len(parts.header) >= WORDY else _outline(parts))


def _outline(parts: Parts) -> Outline:
    return outline(parts.header, tuple(map(len, parts.payloads)))


def decode(
    given: Opened | Parts,
    deadline: float | None,
    future: "asyncio.Future[Any]",
    tenant: str = "",
) -> Job:
    """The job that a ComputeRequest asks for.

    Parameters:
        given: the request's parts, looked at or not.
        deadline: monotonic seconds after which the caller no longer waits.
        future: where its result is to go.
        tenant: who asks.

    Raises:
        RequestError: whatever is wrong with it.
    """
    if isinstance(given, Parts):
        given = opened(given)
    said = given.outline()
    return job_of(said, said.filled(given.parts.payloads), deadline, future, tenant)


def job_of(
    said: Outline,
    call: Call,
    deadline: float | None,
    future: "asyncio.Future[Any]",
    tenant: str,
) -> Job:
    """The job of a call with tensors.

    Raises:
        RequestError: whatever of the tensors does not fit the loss.
    """
    try:
        rows = _rows(said.loss, call)
    except RefusedError as refusal:
        raise refused(refusal) from None
    # Of its inputs, or of its loss where that broadcasts to more.
    elements = (
        said.elements if rows is None else max(said.elements, math.prod(rows.cotangent.shape))
    )
    return Job(
        name=said.name,
        loss=said.loss,
        call=call,
        rows=rows,
        key=object() if rows is None else key_of(rows, call.wrt, said.dtype),
        elements=elements,
        bytes=TAKEN * elements * said.dtype.itemsize,
        tenant=tenant,
        priority=said.priority,
        deadline=deadline,
        arrived=time.monotonic(),
        future=future,
        wishes=said.wishes,
    )


def _rows(loss: Loss, call: Call) -> Rows | None:
    if isinstance(loss, RowwiseLoss):
        return loss.rows(call)
    loss.check(call)
    return None
