"""A call in pieces, both directions at once.

The pieces go out from gRPC's own thread while the answer's come in on the
caller's. Neither the call nor the answer is ever a message as a whole.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import grpc
import numpy as np

from lossclient.ended import UnservedError
from lossclient.giving_up import Attempt, current
from lossclient.line import SERVICE, Line
from losswire import frame, piece
from losswire.errors import (
    CancelledError,
    InternalError,
    LossError,
    MessageError,
    NotServedError,
)
from losswire.frame import Parts
from losswire.layout import layout, without_pieces
from losswire.piece import LEAST, Piece
from losswire.v1 import loss_pb2 as pb


def pieces(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """The answer to one call, whose payloads are memory of their own.

    Raises:
        UnservedError: the server takes no pieces.
        LossError: what the server said, or why it could not be asked.
    """
    method: Any = line.channel().stream_stream(SERVICE + "ComputeLarge")
    answer = Answer(max(map(len, parts.payloads), default=0))
    attempt = current()
    call = method(_messages(parts), timeout=timeout)
    try:
        with attempt.ended_by(call.cancel) if attempt else nullcontext():
            for message in call:
                answer.take(message)
        return answer.parts()
    except grpc.RpcError as error:
        raise told(error, line, timeout, attempt) from None
    except MessageError as error:
        raise InternalError(
            f"a reply must be a losswire.v1.ComputeLargeResponse; {error}"
        ) from None
    finally:
        call.cancel()  # which does nothing once it has ended


def told(
    error: grpc.RpcError, line: Line, timeout: float | None, attempt: Attempt | None
) -> LossError:
    """What a failed call says of it."""
    if attempt is not None and attempt.given_up:
        return CancelledError("the call was given up")
    found = line.told(error, timeout)
    return UnservedError(found.rule) if isinstance(found, NotServedError) else found


def _messages(parts: Parts) -> Iterator[bytes]:
    yield frame.write(parts.header, [], parts.elsewhere)
    for cut_out in cut(parts):
        yield piece.write(*cut_out)


def cut(parts: Parts) -> Iterator[Piece]:
    """The pieces of a call, in order, of whole rows: such are computed where they lie."""
    order = layout(pb.ComputeHeader.FromString(parts.header), len(parts.elsewhere))
    for number in [*order.others, *order.pred]:
        view = memoryview(parts.payloads[number])
        step = order.piece(number, piece.length(len(view)))
        for start in range(0, len(view), step):
            yield Piece(number, start, view[start : start + step])


class Answer:
    """What has come in of an answer.

    Parameters:
        expected: bytes of the largest payload, most likely: a gradient is as large as its input.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._header = b""
        self._buffers: dict[int, memoryview] = {}
        self._ends: dict[int, int] = {}

    def take(self, message: bytes) -> None:
        """Take a message.

        Raises:
            MessageError: it is not one of an answer, or pieces do not follow each other.
        """
        if self._header:
            raise MessageError("nothing must follow the header")
        header = frame.read(message).header
        if header:
            self._header = header
            return
        number, offset, content = piece.read(message)
        at = self._ends.get(number, 0)
        if offset != at:
            raise MessageError("pieces must follow each other", given=f"byte {offset} after {at}")
        self.room(number, len(content))[:] = content

    def room(self, number: int, length: int) -> memoryview:
        """Where the next piece of a payload, of so many bytes, is to be put."""
        at = self._ends.get(number, 0)
        end = self._ends[number] = at + length
        return self._as_far_as(number, end)[at:end]

    def _as_far_as(self, number: int, end: int) -> memoryview:
        """The memory of a payload that has come as far as `end`."""
        buffer = self._buffers.get(number)
        if buffer is None or len(buffer) < end:
            # Memory that is not written to costs nothing.
            size = max(self._expected if end >= LEAST >> 1 else end, 2 * end if buffer else end)
            larger = np.empty(size, np.uint8).data
            if buffer is not None:
                larger[: len(buffer)] = buffer
            buffer = self._buffers[number] = larger
        return buffer

    def parts(self) -> Parts:
        """The answer.

        Raises:
            InternalError: it is not whole.
        """
        got = {number: buffer[: self._ends[number]] for number, buffer in self._buffers.items()}
        there = got.keys() | without_pieces(self._header)
        # Numbered from 0 on they are as many as there are.
        if not self._header or max(there, default=-1) >= len(there):
            raise InternalError("a reply must end with its header", given="an end before it")
        return Parts(self._header, [got.get(number, b"") for number in range(len(there))])
