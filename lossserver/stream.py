"""Many small calls over one stream, answered out of order.

    stream    a message is read: calls, ids of calls that were given up, regions
    calls     each call is answered, by itself
    outbox    what is ready is written, together in one message

Nothing is asked for that there is no room for: while a stream has MOST calls that
are not answered, or answers that are not read, its messages are left at their
sender. It ends when its client ends it, when it has had nothing to do for a while,
and when the server ends; what has come is answered before.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from lossserver.calls import Calls
from lossserver.front import Context, Front, tenant_of
from lossserver.outbox import PATIENCE, Outbox
from lossserver.regions import Regions
from lossserver.told import told
from lossserver.turns import joined, turns
from lossserver.ways import Ways
from losswire import saying, streaming
from losswire.errors import (
    DrainingError,
    LossError,
    MessageError,
    MessageTooLargeError,
    OverloadedError,
)
from losswire.status import to_status
from losswire.streaming import Asked
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb

#: Calls of one stream that are not answered, from which on it is not read any further: more than wait
#: at the door, so that what cannot be in time is refused there. And the share of all bytes in flight
#: that they may have.
MOST = 512
SHARE = 0.25

#: Seconds for which a stream may have nothing to do.
IDLE = 300.0


class Stream:
    """One stream, from its first message to its end."""

    def __init__(self, front: Front, context: Context) -> None:
        self._front = front
        self._context = context
        self._regions = Regions(front.shared)
        self._ways = Ways(context, front, self._take_all, self._end)
        self._outbox = Outbox(self._ways.write, self._unread)
        self._changed = asyncio.Event()
        self._calls = Calls(
            front, tenant_of(context), self._regions, self._outbox, self._changed.set
        )
        self._beside: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[Any] | None = None
        # Messages by the bypass that are being begun with; regions and ways, of which the client has
        # not been told what became of them.
        self._pending = 0
        self._over = False
        self._why: LossError | None = None
        self._used = asyncio.get_running_loop().time()

    async def run(self) -> LossError | None:
        """Serve it until it ends; what its client is told of that, None if there is nothing to tell."""
        self._start(self._end_with_server())
        self._start(self._end_if_idle())
        try:
            while (message := await self._next()) is not None:
                await self._take(message)
                del message  # which may be large, and the next long in coming
            self._over = True
            # gRPC may never end a stream that is left amid a write.
            while self._calls.count or self._pending:
                await self._change()
        finally:
            self._over = True
            self._changed.set()
            for task in self._beside:
                task.cancel()
            self._calls.end()
            self._outbox.end()
            self._regions.end()
            self._ways.end()
        return self._why

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _next(self) -> bytes | None:
        """The next message that comes by gRPC, once there is room for it; None if there will be none."""
        await self._room()
        if self._over:
            return None
        task = self._reading = asyncio.current_task()
        assert task is not None  # noqa: S101  (for mypy)
        try:
            message = await self._context.read()
        except asyncio.CancelledError:
            # By us, and not by the caller as well?
            if self._over and not task.uncancel():
                return None
            raise
        finally:
            self._reading = None
        return message if isinstance(message, bytes) else None  # grpc.aio.EOF

    async def _room(self) -> None:
        """Wait until more may come, or the end."""
        most = SHARE * self._front.limits.max_bytes_in_flight
        while not self._over and (
            self._calls.count + self._pending >= MOST or self._calls.bytes >= most
        ):
            await self._change()

    async def _take_all(self, messages: Sequence[Buffer]) -> None:
        """Begin with what came by the bypass; returns once there is room for more."""
        self._pending += 1
        try:
            most = self._front.limits.max_message_bytes
            for place, message in enumerate(joined(messages, most)):
                if place:
                    await asyncio.sleep(0)  # there may be thousands; others have a turn
                if not self._over:
                    await self._take(message)
                    await self._room()
        finally:
            self._told()

    async def _take(self, message: Buffer) -> None:
        """Begin with what is in a message."""
        self._used = asyncio.get_running_loop().time()
        try:
            if len(message) > self._front.limits.max_message_bytes:
                raise MessageTooLargeError(
                    f"a message must have at most {self._front.limits.max_message_bytes} bytes",
                    given=f"{len(message)} bytes",
                )
            asked = streaming.read_asked(message)
            for opened in asked.opened:
                self._start(self._open(pb.OpenRegion.FromString(opened)))
                self._pending += 1
            if asked.bypass:
                self._offer()
            if asked.direct and self._ways.join(asked.direct):
                self._say(saying.joined())
            await self._begin(asked)
        except DecodeError:
            self._end(MessageError("must be a losswire.v1.OpenRegion", field="open"))
        except LossError as error:
            self._end(error)
        else:
            for number in asked.closed:
                self._regions.close(number)

    async def _begin(self, asked: Asked) -> None:
        """Begin with the calls of a message, but for those that it gives up.

        Raises:
            MessageError: two in flight have one id.
        """
        for number in asked.cancelled:
            self._calls.cancel(number)
        for place, some in enumerate(turns(asked)):
            if place:
                await asyncio.sleep(0)
            self._calls.begin(some)
            self._outbox.flush()

    async def _open(self, asked: pb.OpenRegion) -> None:
        """Make a region, and tell of it."""
        region = pb.Region(region=asked.region)
        try:
            region.name = await self._regions.open(asked)
        except Exception as error:  # noqa: BLE001  (whatever it is, the client is told)
            _, region.status = to_status(told(error))
        self._outbox.put(saying.region(region.SerializeToString()), self._told)

    def _offer(self) -> None:
        """Say which bypass there may be, if any, and what else we take."""
        self._say(saying.bypass(self._ways.bypass(), self._front.direct.port))

    def _say(self, written: list[Buffer]) -> None:
        self._pending += 1
        self._outbox.put(written, self._told)

    def _told(self) -> None:
        self._pending -= 1
        self._changed.set()

    async def _change(self) -> None:
        """Wait until a call has ended, or the stream is to."""
        self._changed.clear()
        await self._changed.wait()
        self._used = asyncio.get_running_loop().time()

    def _end(self, why: LossError | None = None) -> None:
        """Read no more, and end when what has come is answered."""
        if self._over:
            return
        self._over, self._why = True, why
        self._changed.set()
        if self._reading is not None:
            self._reading.cancel()

    def _unread(self) -> None:
        """Nobody reads what is written: end the stream."""
        self._end(OverloadedError(f"answers must be read within {PATIENCE:g} s"))
        self._calls.end()
        self._outbox.end()

    async def _end_with_server(self) -> None:
        await self._front.admission.drained.wait()
        self._end(DrainingError("the server is shutting down; try another, or again later"))

    async def _end_if_idle(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            if self._calls.count:
                self._used = now
            elif now - self._used >= IDLE:
                self._end()
            await asyncio.sleep(self._used + IDLE - now)
