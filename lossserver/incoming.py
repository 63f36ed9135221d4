"""The pieces of one large call as they come in: checked for their order, put together again.

Which piece must come next is known from the header: of which payload, where it
begins, and how long it may be at most. So none can overlap another or be left
out, and nothing is allocated that was not admitted.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import NamedTuple

import numpy as np

from lossserver.connection import MOMENT, Connection
from lossserver.front import Context, connection_of
from lossserver.receive import PATIENCE, Receiving
from losswire import direct, frame, piece
from losswire.errors import MessageError, OverloadedError
from losswire.frame import Parts
from losswire.piece import LARGEST, LEAST
from losswire.tensor import Buffer


class _Next(NamedTuple):
    """The piece that must come next.

    Attributes:
        payload: the number of its payload.
        offset: where in that it begins, in bytes.
        most: bytes that it has at most.
    """

    payload: int
    offset: int
    most: int

    def check(self, payload: int, offset: int, length: int) -> None:
        """Raise MessageError if another has come."""
        if (payload, offset) != (self.payload, self.offset):
            raise MessageError(
                "pieces must come in order: all of pred's last, and without gaps; next is byte "
                f"{self.offset} of payload {self.payload}",
                given=f"byte {offset} of payload {payload}",
            )
        if not 0 < length <= self.most:
            raise MessageError(
                f"a piece must have 1 to {LARGEST} bytes, and end with its payload; here at most "
                f"{self.most}",
                given=f"{length} bytes",
            )


class Incoming:
    """What comes in of one call.

    Parameters:
        receiving: when a message comes in.
        context: whose messages they are.

    Attributes:
        connection: over which pieces come; None if they come by gRPC.
    """

    def __init__(self, receiving: Receiving, context: Context) -> None:
        self._receiving = receiving
        self._context = context
        self._peer = connection_of(context)
        self.connection: Connection | None = None
        # Bytes that have come, and seconds that were waited for them.
        self._came = 0
        self._waited = 0.0

    async def header(self) -> tuple[Parts, bytes]:
        """The first message: the header, and what is elsewhere; and what it says of a connection.

        Raises:
            MessageError: it is something else.
        """
        message = await self._expected()
        parts = frame.read(message)
        if parts.payloads or not parts.header:
            raise MessageError("a large call must begin with its header, pieces come after it")
        return parts, direct.name_in(message)

    async def whole(self, number: int, size: int) -> Buffer:
        """A payload of that number and size; a single piece is given as it came.

        Raises:
            MessageError: a piece is not the one that must come next.
        """
        found = memoryview(b"")
        at = 0
        async for content in self.contents(number, size):
            if len(content) == size:
                return content
            if not at:
                found = memoryview(bytearray(size))
            found[at : at + len(content)] = content
            at += len(content)
        return found

    async def rows(self, number: int, size: int, row: int, enough: int) -> AsyncGenerator[Buffer]:
        """Whole rows of a payload: `enough` bytes or more at a time, less at its end.

        Parameters:
            number: of the payload.
            size: its bytes.
            row: bytes of a row.
            enough: bytes that are worth computing.

        Raises:
            MessageError: a piece is not the one that must come next.
        """
        begun = bytearray()
        left = size
        async for content in self.contents(number, size):
            left -= len(content)
            if not begun and not len(content) % row and (len(content) >= enough or not left):
                yield content
                continue
            begun += content
            if len(begun) >= enough or not left:
                taken, end = begun, len(begun) // row * row
                begun = bytearray(memoryview(taken)[end:])
                if end:
                    yield memoryview(taken)[:end]

    async def contents(self, number: int, size: int) -> AsyncGenerator[Buffer]:
        """The contents of a payload's pieces.

        Raises:
            MessageError: a piece is not the one that must come next.
        """
        at = 0
        while at < size:
            expected = _Next(number, at, min(size - at, LARGEST))
            if self.connection is None:
                content = await self._by_message(expected, size)
            else:
                content = await self._by_connection(self.connection, expected)
            at += len(content)
            yield content
            del content

    async def _by_message(self, expected: _Next, size: int) -> Buffer:
        message = await self._expected()
        if not message:
            raise MessageError(
                "a call must be whole",
                given=f"an end at byte {expected.offset} of {size} of payload {expected.payload}",
            )
        found = piece.read(message)
        expected.check(found.payload, found.offset, len(found.content))
        return found.content

    async def _by_connection(self, connection: Connection, expected: _Next) -> Buffer:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                head = bytearray(direct.HEAD)
                await connection.receive(memoryview(head))
                payload, length = direct.read_head(head)
                expected.check(payload, expected.offset, length)
                content = np.empty(length, np.uint8).data
                await connection.receive(content)
        except TimeoutError:
            raise OverloadedError(f"a piece must come within {PATIENCE:g} s; try again") from None
        self._count(time.monotonic() - began, length)
        return content

    async def end(self) -> None:
        """Return when the caller has sent all.

        Raises:
            MessageError: it sends more.
        """
        if await self._message():
            raise MessageError("no message may follow a call's last piece")

    async def _expected(self) -> bytes:
        """The next message, where there should be one."""
        message = await self._message()
        if not message:
            await asyncio.sleep(MOMENT)  # the caller may be gone, which seems to be an end at first
        return message

    async def _message(self) -> bytes:
        """The next message; empty if there is none.

        Raises:
            OverloadedError: the call comes so slowly that others must not wait for it.
        """

        async def read() -> bytes:
            began = time.monotonic()
            message = await self._context.read()
            self._waited += time.monotonic() - began
            return message if isinstance(message, bytes) else b""

        message = await self._receiving.message(read, self._peer)
        self._count(0.0, len(message))
        return message

    def _count(self, waited: float, came: int) -> None:
        """Count seconds that were waited, and bytes that came then.

        Raises:
            OverloadedError: the call comes so slowly that others must not wait for it.
        """
        self._waited += waited
        self._came += came
        # A piece each PATIENCE is in time. But a byte is none: it would hold the call's place for ever.
        if self._waited > PATIENCE * (1 + self._came / LEAST):
            raise OverloadedError(f"each {LEAST} bytes of a call must come within {PATIENCE:g} s")
