"""A call through memory that client and server share: tensors written there, gradients found there.

Behind a call's tensors lies room for its gradients. The arrays that the caller
gets of them are that very memory, which nobody else gets while they live.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np

from lossclient.ended import EndedError, TooLongError
from lossclient.line import Line
from lossclient.regions import Lease, Regions
from lossclient.stream import Stream
from losswire.dtypes import DTYPES
from losswire.errors import InternalError, OverloadedError
from losswire.frame import Parts
from losswire.region import aligned
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb
from losswire.value import tensors

#: Bytes of a call from which it gains by it.
WORTH = 1 << 20

#: Bytes of an array for whose sake a region stays in use; a smaller one is copied out.
KEPT = 1 << 16

#: What an answer has besides gradients, in bytes.
BESIDES = 1 << 12

_SIZES = {row.wire: row.itemsize for row in DTYPES.values()}


def shared(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """One call through shared memory.

    Raises:
        UnsharedError: there is none to be had.
        LossError: what the server said, or why it could not be asked.
    """
    try:
        return _shared(parts, line, timeout)
    except (EndedError, TooLongError):
        return _shared(parts, line, timeout)


def _shared(parts: Parts, line: Line, timeout: float | None) -> Parts:
    regions = _regions(line)
    there = [regions.find(one) for one in parts.payloads]
    begin = sum(
        aligned(len(one)) for one, span in zip(parts.payloads, there, strict=True) if span is None
    )
    room = _room(parts.header)
    lease = regions.take(begin + room, timeout)
    answer = pb.Span(region=lease.region.number, offset=begin, bytes=room)
    try:
        message = _written(parts, there, lease)
        reply = regions.stream.call(message, timeout, answer.SerializeToString())
    except OverloadedError:
        raise  # so the server says before it begins
    except BaseException:
        regions.give_up(lease)
        raise
    return _found(reply, lease, answer)


def lent(size: int, line: Line, timeout: float | None) -> memoryview:
    """So many bytes of shared memory, to keep. What lies there is not copied for a call.

    Raises:
        UnsharedError: there is none to be had.
        LossError: the server could not be asked.
    """
    return _regions(line).take(size, timeout).array.data[:size]


def _regions(line: Line) -> Regions:
    """Those of the line's stream: a new one has new ones."""
    stream = line.keep(Stream, Stream)
    found = line.keep(Regions, lambda _: Regions(stream))
    if found.stream is stream:
        return found
    line.forget(found)
    return line.keep(Regions, lambda _: Regions(stream))


def _written(parts: Parts, there: Sequence[pb.Span | None], lease: Lease) -> Parts:
    """The call with its payloads in a region, but for those that are in one already."""
    elsewhere: list[Buffer] = []
    at = 0
    for payload, span in zip(parts.payloads, there, strict=True):
        if span is None:
            size = len(payload)
            lease.array[at : at + size] = np.frombuffer(payload, np.uint8)
            span = pb.Span(region=lease.region.number, offset=at, bytes=size)  # noqa: PLW2901
            at += aligned(size)
        elsewhere.append(pb.Elsewhere(span=span).SerializeToString())
    return Parts(parts.header, (), [*elsewhere, *parts.elsewhere])


def _found(reply: Parts, lease: Lease, answer: pb.Span) -> Parts:
    """The reply with all its payloads; those in the region keep it in use."""
    if not reply.elsewhere:
        return reply
    # Who has a part of this view has the array.
    memory = lease.array.data[answer.offset : answer.offset + answer.bytes]
    payloads = [*reply.payloads]
    for one in reply.elsewhere:
        span = pb.Elsewhere.FromString(bytes(one)).span
        at = span.offset - answer.offset
        if span.region != answer.region or not 0 <= at <= answer.bytes - span.bytes:
            raise InternalError("an answer must lie in the span that was meant for it")
        found = memory[at : at + span.bytes]
        payloads.append(found if len(found) >= KEPT else bytes(found))
    return Parts(reply.header, payloads)


@functools.lru_cache(maxsize=64)
def _room(serialised: bytes) -> int:
    """Bytes of the gradients that a header asks for, and a little more."""
    header = pb.ComputeHeader.FromString(serialised)
    wanted = [header.inputs[name] for name in header.wrt if name in header.inputs]
    return BESIDES + sum(aligned(_bytes(one)) for value in wanted for one in tensors(value))


def _bytes(one: pb.Tensor) -> int:
    return math.prod(one.shape) * _SIZES[one.dtype]
