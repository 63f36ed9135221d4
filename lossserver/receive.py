"""When does a call's message come in? So that what gRPC holds is bounded, too.

gRPC receives the whole of a message as soon as somebody asks for it, and not
before: until then HTTP/2's flow control holds it back at its sender, but for
the first 64 KiB. How large it will be nobody knows beforehand; what a caller
says of that is not to be trusted. So a message is expected to be as large as the
largest that its connection has sent so far, or as the largest allowed if there
was none, and all that are coming in together must fit a budget.

Small messages are here by the time they are asked for. Who sends only such waits
for nobody.

No connection may take much of it for nothing: of a stranger one message at a time
is asked for, of others a few, each for a limited time, and no more than a share of
all calls may wait for theirs.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from lossserver.admit import Limits
from losswire.errors import MessageError, OverloadedError

#: Bytes of a message that is here, or nearly, before it is asked for: HTTP/2's initial window.
SMALL = (1 << 16) - 1

#: Connections whose largest message is remembered.
REMEMBERED = 4096

#: Messages of one connection that are asked for at a time. They share its line anyway, and until
#: they are here each may turn out to be as large as is allowed.
TOGETHER = 8

#: Seconds that a message may take, and wait for its turn: our client's own timeout, if it was told
#: none. And bytes a second beyond that, where a connection has shown that it sends so many.
PATIENCE = 30.0
SLOWEST = 1e6

Read = Callable[[], Awaitable[bytes]]


class Receiving:
    """The messages that are coming in. On the event loop only; needs no lock."""

    def __init__(self, limits: Limits) -> None:
        self._budget = limits.max_bytes_in_flight
        self._largest = limits.max_message_bytes
        self._most = max(2 * TOGETHER, limits.max_calls_in_flight // 4)
        self._coming = 0
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._waiting: deque[tuple[_Peer, asyncio.Future[int]]] = deque()
        # Until when each small message may come, the oldest first. A timer each would cost more.
        self._small_until: dict[asyncio.Task[object], float] = {}
        self._sweeping = False

    async def message(self, read: Read, peer: str) -> bytes:
        """What `read` gives, once there is room for as much as `peer` may be sending.

        Raises:
            MessageError: there is none.
            OverloadedError: it comes so slowly that others must not wait for it, too much comes
                before it, or too many calls of this connection wait for theirs.
        """
        known = self._peer(peer)
        if known.calls >= self._most:
            raise OverloadedError(
                f"at most {self._most} calls of a connection may wait for their messages; try again"
            )
        small = known.expected <= SMALL and known.calls < TOGETHER
        known.calls += 1
        try:
            message = await (self._small(read) if small else self._in_turn(read, known))
        finally:
            known.calls -= 1
        if not isinstance(message, bytes):  # grpc.aio.EOF
            raise MessageError("a call must have one message", given="none")
        if not known.proven or len(message) > known.expected:
            known.proven, known.expected = True, len(message)
        return message

    def _peer(self, name: str) -> "_Peer":
        known = self._peers.get(name)
        if known is None:
            known = self._peers[name] = _Peer(self._largest)
            if len(self._peers) > REMEMBERED:
                self._peers.popitem(last=False)
        else:
            self._peers.move_to_end(name)
        return known

    async def _small(self, read: Read) -> bytes:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (for mypy)
        self._small_until[task] = time.monotonic() + PATIENCE
        if not self._sweeping:
            self._sweep()
        try:
            return await read()
        except asyncio.CancelledError:
            # By the sweep, and not by the caller as well?
            if not self._small_until[task] and not task.uncancel():
                raise _slow() from None
            raise
        finally:
            del self._small_until[task]

    def _sweep(self) -> None:
        """Give up what is overdue, and look again when the next may be."""
        now = time.monotonic()
        self._sweeping = False
        for task, until in self._small_until.items():
            if until > now:
                self._sweeping = True
                asyncio.get_running_loop().call_later(until - now, self._sweep)
                return
            if until:
                self._small_until[task] = 0.0
                task.cancel()

    async def _in_turn(self, read: Read, peer: "_Peer") -> bytes:
        try:
            async with asyncio.timeout(PATIENCE) as limit, peer.turns:
                if not peer.proven:
                    async with peer.first:
                        if not peer.proven:
                            return await self._large(read, peer, limit)
                return await self._large(read, peer, limit)
        except TimeoutError:
            raise _slow() from None

    async def _large(self, read: Read, peer: "_Peer", limit: asyncio.Timeout) -> bytes:
        held = await self._room(peer)
        try:
            shown = held / SLOWEST if peer.proven else 0.0
            limit.reschedule(asyncio.get_running_loop().time() + PATIENCE + shown)
            return await read()
        finally:
            self._coming -= held
            self._wake()

    async def _room(self, peer: "_Peer") -> int:
        """Bytes held for a message of this peer, once it is its turn."""
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((peer, turn))
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._coming -= turn.result()
            self._wake()
            raise

    def _wake(self) -> None:
        """Let in whose turn it is, first come first served."""
        while self._waiting:
            peer, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()  # its caller has gone
            elif self._coming and self._coming + peer.expected > self._budget:
                return
            else:
                self._waiting.popleft()
                self._coming += peer.expected
                turn.set_result(peer.expected)


class _Peer:
    """One connection.

    Attributes:
        expected: bytes of its largest message, or of the largest allowed.
        proven: it has sent one.
        calls: those whose message is not here yet.
        first: who holds it is asked for the first message.
        turns: how many more are asked for.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.proven = False
        self.calls = 0
        self.first = asyncio.Lock()
        self.turns = asyncio.Semaphore(TOGETHER)


def _slow() -> OverloadedError:
    return OverloadedError(
        f"a message must come within {PATIENCE:g} s, or at 1 MB/s where larger ones have come; try again"
    )
