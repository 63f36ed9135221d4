"""lossserver.receive: whose message comes in, and whose waits at its sender."""

import asyncio

import grpc
import pytest

from lossserver import receive
from lossserver.admit import Limits
from lossserver.receive import Receiving
from losswire.errors import MessageError, OverloadedError

LIMITS = Limits(max_message_bytes=1 << 20, max_bytes_in_flight=4 << 20)


class Sender:
    """A caller of one connection, whose message comes when it is let."""

    def __init__(self, receiving, peer, size=1 << 19):
        self.asked = False
        self._size = size
        self._sent = asyncio.Event()
        self.task = asyncio.create_task(receiving.message(self._read, peer))

    async def _read(self):
        self.asked = True
        await self._sent.wait()
        return bytes(self._size)

    async def send(self):
        """Let it come; what the receiver got."""
        self._sent.set()
        return await self.task


async def settled():
    """Everything that can go on has."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(test):
    """A test as a coroutine of a Receiving."""

    def wrapped():
        async def inside():
            await test(Receiving(LIMITS))

        asyncio.run(inside())

    wrapped.__name__, wrapped.__doc__ = test.__name__, test.__doc__
    return wrapped


@run
async def test_strangers_together_fit_the_budget(receiving):
    """Of who has sent nothing yet the largest message is expected: four of five are asked."""
    senders = [Sender(receiving, str(i)) for i in range(5)]
    await settled()
    asked = [sender.asked for sender in senders]
    got = [len(await sender.send()) for sender in senders]

    assert asked == [True, True, True, True, False]
    assert got == [1 << 19] * 5


@run
async def test_who_sent_half_as_much_takes_half_the_room(receiving):
    """A connection is expected to send what it sent before."""
    for peer in "ab":
        await Sender(receiving, peer).send()
    senders = [Sender(receiving, "ab"[i % 2]) for i in range(9)]
    await settled()

    assert [sender.asked for sender in senders] == [True] * 8 + [False]
    for sender in senders:
        await sender.send()


@run
async def test_small_messages_wait_for_nobody(receiving):
    """Who has only ever sent small ones is asked at once, however many large are coming in."""
    for i in range(50):
        await Sender(receiving, f"small {i}", 1000).send()
    slow = [Sender(receiving, str(i)) for i in range(5)]
    small = [Sender(receiving, f"small {i}", 1000) for i in range(50)]
    await settled()

    assert all(sender.asked for sender in small)
    for sender in small + slow:
        await sender.send()


@run
async def test_first_come_first_served(receiving):
    """A connection that takes less room does not overtake one that waits for more."""
    await Sender(receiving, "known").send()
    senders = [Sender(receiving, str(i)) for i in range(5)]
    last = Sender(receiving, "known")
    await settled()
    asked = last.asked
    await senders[0].send()
    await settled()

    assert (asked, senders[4].asked) == (False, True)
    for sender in [*senders[1:], last]:
        await sender.send()


@run
async def test_who_goes_gives_its_room_to_the_next(receiving):
    """Whether it waited or its message was coming in."""
    senders = [Sender(receiving, str(i)) for i in range(6)]
    await settled()
    for gone in (senders[4], senders[0]):
        gone.task.cancel()
    await settled()

    assert senders[5].asked
    assert not senders[4].asked
    for sender in (*senders[1:4], senders[5]):
        await sender.send()
    assert receiving._coming == 0


@run
async def test_a_stranger_is_asked_for_one_message(receiving):
    """Not for four at once, which would leave no room for anybody; then for as many as fit."""
    senders = [Sender(receiving, "one") for _ in range(3)]
    other = Sender(receiving, "other")
    await settled()
    asked = [sender.asked for sender in senders]
    await senders[0].send()
    await settled()

    assert (asked, other.asked) == ([True, False, False], True)
    assert senders[1].asked
    for sender in (*senders[1:], other):
        await sender.send()
    assert receiving._coming == 0


@run
async def test_a_connection_is_asked_for_a_few_at_a_time(receiving):
    """Its small messages may turn out to be large ones, each of them."""
    await Sender(receiving, "small", 10).send()
    senders = [Sender(receiving, "small", 10) for _ in range(40)]
    await settled()
    asked = sum(sender.asked for sender in senders)
    for sender in senders:
        await sender.send()

    assert asked == 2 * receive.TOGETHER
    assert receiving._coming == 0


@run
async def test_a_connection_has_a_share_of_the_calls(receiving):
    """Who opens calls and sends nothing leaves the others theirs."""
    senders = [Sender(receiving, "empty") for _ in range(LIMITS.max_calls_in_flight // 4)]
    await settled()
    with pytest.raises(OverloadedError, match="at most 256 calls of a connection"):
        await Sender(receiving, "empty").task
    await Sender(receiving, "other").send()

    for sender in senders:
        await sender.send()


@pytest.mark.parametrize("sent", [0, 10, 1 << 19], ids=["stranger", "small", "large"])
def test_who_stops_sending_is_given_up(monkeypatch, sent):
    """Whatever it sent before: its room is needed by others; it may try again."""

    @run
    async def stopped(receiving):
        if sent:
            await Sender(receiving, "stopped", sent).send()
        monkeypatch.setattr(receive, "PATIENCE", 0.01)
        monkeypatch.setattr(receive, "SLOWEST", 1e12)
        senders = [Sender(receiving, "stopped") for _ in range(3)]
        for sender in senders:
            with pytest.raises(OverloadedError, match="must come within"):
                await sender.task

        assert receiving._coming == 0
        assert not receiving._small_until

    stopped()


@run
async def test_who_waits_for_others_is_told_so(receiving):
    """Not for ever: strangers that send nothing take all the room."""
    idle = [Sender(receiving, str(i)) for i in range(4)]
    await settled()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(receive, "PATIENCE", 0.01)
        with pytest.raises(OverloadedError, match="try again"):
            await Sender(receiving, "newcomer").task

    for sender in idle:
        await sender.send()


@run
async def test_a_small_call_that_is_cancelled_stays_so(receiving):
    """Only what the sweep gives up is told to try again."""
    await Sender(receiving, "small", 10).send()
    gone = Sender(receiving, "small", 10)
    await settled()
    gone.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone.task

    assert not receiving._small_until


@run
async def test_a_call_without_a_message_is_refused(receiving):
    """A stream may end before it has begun."""

    async def nothing():
        return grpc.aio.EOF

    with pytest.raises(MessageError, match="must have one message"):
        await receiving.message(nothing, "peer")


@run
async def test_what_is_remembered_is_bounded(receiving):
    """Connections come and go; who has not called for longest is a stranger again."""
    for i in range(receive.REMEMBERED + 10):
        await Sender(receiving, str(i), 10).send()
        await Sender(receiving, "0", 10).send()

    assert len(receiving._peers) == receive.REMEMBERED
    assert "0" in receiving._peers
    assert "1" not in receiving._peers
