"""Which way a call's bytes go: inline, over a stream, in pieces, through shared memory.

A plane is an attempt at one call over one line, and knows nothing of retries.
"""

from contextlib import suppress
from typing import Any, Literal

import numpy as np

from lossclient.carrier import reading
from lossclient.directly import directly, pieces
from lossclient.ended import EndedError, UnservedError
from lossclient.line import Line
from lossclient.pieces import pieces as by_grpc
from lossclient.regions import FullError, UnsharedError
from lossclient.resident import Way, carried, inlined, put
from lossclient.shared import WORTH, lent, shared
from lossclient.stream import Stream
from lossclient.transport import Transport
from losswire import frame
from losswire.bypass import LONGEST
from losswire.errors import InternalError, MessageError, NotServedError, OverloadedError
from losswire.frame import Parts
from losswire.resident import Handle
from losswire.tensor import Buffer

#: Bytes of a call up to which it goes over a stream, where others may wait behind it. And where the
#: stream has a bypass: so much that carries, with what is around a call.
STREAMED = 1 << 18
PASSED = LONGEST - (1 << 16)

#: Bytes of a call from which it gains by being cut in pieces that go by gRPC: one message and its
#: answer are then so long on their way that it pays to compute meanwhile.
CUT = 16 << 20


Plane = Literal["auto", "inline", "stream", "pieces", "shared"]


class Planes:
    """All ways to a server.

    Parameters:
        transport: where attempts go.
        plane: the one to use; "auto" is the fastest for a call's size.
    """

    def __init__(self, transport: Transport, plane: Plane = "auto") -> None:
        if plane not in WAYS:
            raise ValueError(f"plane must be one of {', '.join(WAYS)}; given {plane!r}")
        self.transport = transport
        self.plane = plane

    def __reduce__(self) -> tuple[Any, ...]:
        return Planes, (self.transport, self.plane)

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """The parts of the reply to a ComputeRequest of these parts."""
        here = self.transport.local
        way = inline if reading() else WAYS[self.plane]
        return self.transport.run(
            lambda line, left: carried(way, parts, line, left),
            timeout,
            size=parts.size,
            instead=None if here is None else lambda left: here(inlined(parts), left),
        )

    def over_stream(self, parts: Parts) -> bool:
        """Whether a call goes over the stream, if there is one, and has nothing to be put before."""
        small = parts.size <= STREAMED
        return not parts.elsewhere and (self.plane == "stream" or (self.plane == "auto" and small))

    def empty(self, size: int, timeout: float | None) -> Buffer:
        """So many bytes of memory that the server has, too; of other memory where it has none."""
        if self.plane not in ("auto", "shared") or reading():
            return np.empty(size, np.uint8).data
        with suppress(UnsharedError):
            return self.transport.run(lambda line, left: lent(size, line, left), timeout)
        return np.empty(size, np.uint8).data

    def put(self, handle: Handle, timeout: float | None) -> Handle:
        """The handle, its tensor with the server."""
        self.transport.run(lambda line, left: put(handle.reference, line, left), timeout)
        return handle


def chosen(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """One call, the way that is the fastest for its size."""
    if parts.size <= STREAMED:
        return streamed(parts, line, timeout)
    if parts.size >= WORTH:
        with suppress(UnsharedError):
            return shared(parts, line, timeout)
    if parts.size > PASSED:
        with suppress(UnservedError):
            return directly(parts, line, timeout)
    elif line.keep(Stream, Stream).bypassed:
        return streamed(parts, line, timeout)
    if parts.size >= CUT:
        with suppress(UnservedError):
            return by_grpc(parts, line, timeout)
    return inline(parts, line, timeout)


def demanded(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """One call through shared memory and no other way.

    Raises:
        NotServedError, OverloadedError: there is none, or no more for now.
    """
    try:
        return shared(parts, line, timeout)
    except FullError as error:
        raise OverloadedError(str(error)) from None
    except UnsharedError as error:
        raise NotServedError(str(error)) from None


def streamed(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """One call over the line's stream; a unary one if the server has no streams."""
    try:
        try:
            return line.keep(Stream, Stream).call(parts, timeout)
        except EndedError:
            return line.keep(Stream, Stream).call(parts, timeout)
    except UnservedError:
        return inline(parts, line, timeout)


def inline(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """One unary call."""
    return read(line.call("Compute", frame.write(*parts), timeout))


def read(reply: bytes) -> Parts:
    """The parts of a serialised ComputeResponse.

    Raises:
        InternalError: the bytes are none.
    """
    try:
        return frame.read(reply)
    except MessageError:
        raise InternalError(
            "a reply must be a losswire.v1.ComputeResponse", given=f"{len(reply)} other bytes"
        ) from None


#: By the name of a plane.
WAYS: dict[Plane, Way] = {
    "auto": chosen,
    "inline": inline,
    "stream": streamed,
    "pieces": pieces,
    "shared": demanded,
}
