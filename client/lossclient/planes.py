"""Which way a call's bytes go: inline, over a stream, in pieces, through shared memory.

A plane is an attempt at one call over one line, and knows nothing of retries.
"""

from typing import Any

from lossclient.line import Line
from lossclient.transport import Transport
from losswire import frame
from losswire.errors import InternalError, MessageError
from losswire.frame import Parts


class Planes:
    """All ways to a server.

    Parameters:
        transport: where attempts go.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def __reduce__(self) -> tuple[Any, ...]:
        return Planes, (self.transport,)

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """The parts of the reply to a ComputeRequest of these parts."""
        message = frame.write(*parts)
        return self.transport.run(lambda line, left: inline(message, line, left), timeout)


def inline(message: bytes, line: Line, timeout: float | None) -> Parts:
    """One unary call."""
    return read(line.call("Compute", message, timeout))


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
