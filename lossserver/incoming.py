"""The pieces of one large call as they come in: checked for their order, put together again.

Which piece must come next is known from the header: of which payload, where it
begins, and how long it may be at most. So none can overlap another or be left
out, and nothing is allocated that was not admitted.
"""

import asyncio
import time
from collections.abc import AsyncGenerator

from lossserver.front import Context, connection_of
from lossserver.receive import PATIENCE, Receiving
from losswire import frame, piece
from losswire.errors import MessageError, OverloadedError
from losswire.frame import Parts
from losswire.piece import LEAST
from losswire.tensor import Buffer

#: Bytes that a piece may have. What a call in pieces holds is counted in pieces.
LARGEST = 16 << 20

#: Seconds after which gRPC has cancelled a call whose caller is gone: that seems to be its end at first.
MOMENT = 0.05


class Incoming:
    """What comes in of one call.

    Parameters:
        receiving: when a message comes in.
        context: whose messages they are.
    """

    def __init__(self, receiving: Receiving, context: Context) -> None:
        self._receiving = receiving
        self._context = context
        self._peer = connection_of(context)
        # Bytes that have come, and seconds that were waited for them.
        self._came = 0
        self._waited = 0.0

    async def header(self) -> Parts:
        """The first message: the header, and what is elsewhere.

        Raises:
            MessageError: it is something else.
        """
        parts = frame.read(await self._expected())
        if parts.payloads or not parts.header:
            raise MessageError("a large call must begin with its header, pieces come after it")
        return parts

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
            message = await self._expected()
            if not message:
                raise MessageError(
                    "a call must be whole",
                    given=f"an end at byte {at} of {size} of payload {number}",
                )
            found = piece.read(message)
            if (found.payload, found.offset) != (number, at):
                raise MessageError(
                    "pieces must come in order: all of pred's last, and without gaps; next is byte "
                    f"{at} of payload {number}",
                    given=f"byte {found.offset} of payload {found.payload}",
                )
            most = min(size - at, LARGEST)
            if not 0 < len(found.content) <= most:
                raise MessageError(
                    f"a piece must have 1 to {LARGEST} bytes, and end with its payload; here at most "
                    f"{most}",
                    given=f"{len(found.content)} bytes",
                )
            at += len(found.content)
            del message
            yield found.content

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
            await asyncio.sleep(MOMENT)
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
        self._came += len(message)
        # A piece each PATIENCE is in time. But a byte is none: it would hold the call's place for ever.
        if self._waited > PATIENCE * (1 + self._came / LEAST):
            raise OverloadedError(f"each {LEAST} bytes of a call must come within {PATIENCE:g} s")
        return message
