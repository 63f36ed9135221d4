"""The pieces of one large answer as they go out."""

import asyncio
from collections.abc import Awaitable

import grpc

from lossserver.connection import Connection
from lossserver.front import Context
from lossserver.receive import PATIENCE
from losswire import direct, frame, piece
from losswire.errors import DeadlineError
from losswire.frame import Parts
from losswire.piece import MOST, TAKEN
from losswire.tensor import Buffer


class Outgoing:
    """What goes out of one call.

    Parameters:
        context: where to.
        connection: over which it goes; None is by gRPC.
    """

    def __init__(self, context: Context, connection: Connection | None = None) -> None:
        self._context = context
        self._connection = connection
        self._sent: dict[int, int] = {}

    async def payload(self, number: int, content: Buffer, step: int = MOST) -> None:
        """Send what comes next of a payload, in pieces of at most `step` bytes.

        What is made of a caller's piece goes back in one: who sent it takes as much.

        Raises:
            DeadlineError: the caller does not take it.
        """
        view = memoryview(content)
        for start in range(0, len(view), step):
            part = view[start : start + step]
            if self._connection is not None:
                head = direct.head(number, len(part))
                await self._in_time(self._connection.send(head, part))
                continue
            at = self._sent.get(number, 0)
            await self._in_time(self._context.write(piece.write(number, at, part)))
            self._sent[number] = at + len(part)

    async def header(self, serialised: bytes) -> None:
        """Send the header, after which nothing is sent."""
        if self._connection is not None:
            await self._in_time(self._connection.send(direct.head(direct.END, 0), b""))
        await self._in_time(self._context.write(frame.write(serialised, [])))

    async def all(self, parts: Parts) -> None:
        """Send an answer that is all there."""
        for number, content in enumerate(parts.payloads):
            await self.payload(number, content, piece.length(len(content), TAKEN))
        await self.header(parts.header)

    async def _in_time(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await sending
        except TimeoutError:
            raise DeadlineError(
                f"each piece of an answer must be taken within {PATIENCE:g} s"
            ) from None
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # the caller has gone meanwhile
