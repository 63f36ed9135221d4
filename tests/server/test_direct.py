"""lossserver.direct: connections that come, wait, are used and go; all in this process."""

import asyncio
import errno
import socket
from contextlib import suppress

import pytest

from lossserver import direct
from lossserver.direct import Direct
from losswire.bypass import LONGEST
from losswire.direct import NAME
from losswire.errors import MessageError, NotServedError
from tests.server.directs import MOST_BYTES, run


async def hung_up(line):
    """Whether the server has; False if it does so within no more than a few turns of the loop."""
    for _ in range(5):
        await asyncio.sleep(0)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", bytes(NAME), b""], ids=["another", "no name", "nothing"]
)
def test_who_does_not_repeat_the_name_is_hung_up_on(said):
    """At once, or when it has been silent for long enough; and it is no call's meanwhile."""

    async def scenario(found, connected):
        line, name = await connected(repeats=False)
        with pytest.raises(NotServedError):
            found.used(name).__enter__()
        line.send(said)
        if not said:
            next(iter(found._greeted)).until = 0.0
            found._sweep()
        return await hung_up(line), found.count

    assert run(scenario) == (True, 0)


def test_a_name_may_come_byte_by_byte():
    """As TCP may have it."""

    async def scenario(found, connected):
        line, name = await connected(repeats=False)
        for place in range(NAME):
            assert not found._idle
            line.send(name[place : place + 1])
            assert not await hung_up(line) or place == NAME - 1
        with found.used(name) as used:
            return used.name == name

    assert run(scenario)


def test_strangers_take_no_more_than_a_share(monkeypatch):
    """Of those that were only greeted the oldest is hung up on, and no client's connection."""
    monkeypatch.setattr(direct, "MOST_IDLE", 3)

    async def scenario(_, connected):
        known, _ = await connected()
        strangers = [await connected(repeats=False) for _ in range(4)]
        return [await hung_up(line) for line in (known, *(line for line, _ in strangers))]

    assert run(scenario) == [False, True, True, False, False]


def test_each_has_a_name_of_its_own():
    """Which nobody can guess."""

    async def scenario(_, connected):
        return [(await connected())[1] for _ in range(20)]

    names = run(scenario)
    assert len(set(names)) == 20
    assert {len(name) for name in names} == {NAME}


def test_a_connection_is_one_calls_at_a_time():
    """Another that names it is told so, and has it after."""

    async def scenario(found, connected):
        _, name = await connected()
        with found.used(name) as first:
            with pytest.raises(NotServedError, match="direct: must be one of this server's"):
                found.used(name).__enter__()
            assert found.given_up(name) is None
        with found.used(name) as second:
            return first is second and second.name == name

    assert run(scenario)


@pytest.mark.parametrize(
    "name", [b"x", bytes(NAME), bytes(NAME + 1)], ids=["short", "none", "long"]
)
def test_a_name_of_nobody_is_not_served(name):
    """Then the call goes by gRPC; one without a name does anyway."""

    async def scenario(found, connected):
        await connected()
        with found.used(b"") as without:
            assert without is None
        assert found.given_up(name) is None
        with pytest.raises(NotServedError):
            found.used(name).__enter__()

    run(scenario)


@pytest.mark.parametrize("error", [MessageError("no"), asyncio.CancelledError()], ids=repr)
def test_after_a_call_that_went_wrong_it_is_closed(error):
    """What of it is still on its way nobody knows."""

    async def scenario(found, connected):
        line, name = await connected()
        with suppress(type(error)), found.used(name):
            raise error
        with pytest.raises(NotServedError):
            found.used(name).__enter__()
        return await hung_up(line)

    assert run(scenario)


def test_of_too_many_those_idle_for_longest_are_closed(monkeypatch):
    """And one that was used meanwhile is none of them."""
    monkeypatch.setattr(direct, "MOST_IDLE", 3)

    async def scenario(found, connected):
        peers = [await connected() for _ in range(3)]
        with found.used(peers[0][1]):
            pass
        peers += [await connected() for _ in range(2)]
        return [await hung_up(line) for line, _ in peers]

    assert run(scenario) == [False, True, True, False, False]


def test_what_nobody_needs_is_swept_out():
    """One that is idle for too long, and one whose peer has gone; not one that has begun to send."""

    async def scenario(found, connected):
        (late, late_name), (gone, _), (sends, sends_name), (waits, _) = [
            await connected() for _ in range(4)
        ]
        found._idle[late_name].until = 0.0
        gone.close()
        sends.send(b"a piece")
        found._sweep()
        left = len(found._idle)
        again = found._sweeping
        with found.used(sends_name) as used:
            into = bytearray(7)
            await used.receive(memoryview(into))
        assert (left, bytes(into)) == (2, b"a piece")
        assert again is not None
        return [await hung_up(line) for line in (late, sends, waits)]

    assert run(scenario) == [True, False, False]


def test_a_server_that_has_none_left_does_not_look_for_them():
    """It need not wake up for nothing, and looks again when there is one."""

    async def scenario(found, connected):
        assert found._sweeping is None
        line, _ = await connected()
        assert found._sweeping is not None
        line.close()
        found._sweeping.cancel()
        found._sweep()
        assert (found._idle, found._sweeping) == ({}, None)
        await connected()
        assert found._sweeping is not None

    run(scenario)


def test_once_it_is_closed_there_are_none():
    """Neither new ones, nor idle ones, nor, when its call has ended, one that was in use."""

    async def scenario(found, connected):
        (idle, _), (used, name) = await connected(), await connected()
        with found.used(name):
            found.close()
            assert await hung_up(idle)
            assert not await hung_up(used)
        assert await hung_up(used)
        with pytest.raises(ConnectionRefusedError):
            await connected()
        found.close()

    run(scenario)


def test_of_those_for_streams_there_are_so_many():
    """Of one that is let go of there is room for another, and it is no call's any more."""

    async def scenario(found, connected):
        assert found._most_given_up == MOST_BYTES // 4 // LONGEST
        found._most_given_up = 2
        names = [(await connected())[1] for _ in range(4)]
        taken = [found.given_up(name) for name in names[:3]]
        assert taken[2] is None
        with pytest.raises(NotServedError):
            found.used(names[0]).__enter__()
        taken.pop(0).close()
        again = found.given_up(names[2])
        assert again is not None
        assert found.given_up(names[3]) is None
        again.close()
        taken[0].close()

    run(scenario)


def test_a_server_without_any_has_no_port():
    """And no name is one of its connections."""

    async def scenario():
        found = Direct(None)
        assert (found.port, found.given_up(bytes(NAME))) == (0, None)
        with pytest.raises(NotServedError):
            found.used(bytes(NAME)).__enter__()
        found.close()

    asyncio.run(scenario())


class Exhausted(socket.socket):
    """A socket that is listened on in a process that has no descriptors left for a while."""

    def __init__(self):
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.asked = 0
        self.exhausted = True

    def accept(self):
        """Nobody can be let in."""
        self.asked += 1
        if self.exhausted:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_a_server_without_descriptors_does_not_ask_all_the_time():
    """Who cannot be let in stays at the door, and is let in when there are some again."""

    async def scenario(found, connected):
        coming = asyncio.ensure_future(connected())
        for _ in range(100):
            await asyncio.sleep(0)
        asked = found._listening.asked
        found._listening.exhausted = False
        _, name = await coming
        with found.used(name):
            return asked

    assert 1 <= run(scenario, Exhausted) < 10


def test_they_are_counted():
    """Whatever they are used for, and not once they are gone."""

    async def scenario(found, connected):
        counts = [found.count]
        names = [(await connected())[1] for _ in range(3)]
        counts.append(found.count)
        line = found.given_up(names[0])
        with suppress(MessageError), found.used(names[1]):
            counts.append(found.count)
            raise MessageError("no")
        counts.append(found.count)
        line.close()
        del line
        counts.append(found.count)
        found.close()
        return [*counts, found.count]

    assert run(scenario) == [0, 3, 3, 2, 1, 0]


def test_a_peer_whose_machine_is_gone_is_noticed():
    """Of whom nobody hears otherwise; and small pieces do not wait for each other."""

    async def scenario(found, connected):
        _, name = await connected()
        line = found._idle[name].line
        return [
            line.getsockopt(*option)
            for option in [
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            ]
        ]

    assert run(scenario) == [1, 10, 1]
