"""Pieces over a direct connection: which may come, how slowly, and how they go; all in this process."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from lossserver import incoming, outgoing
from lossserver.admit import Limits
from lossserver.incoming import LARGEST, Incoming
from lossserver.outgoing import Outgoing
from lossserver.receive import Receiving
from losswire import piece
from losswire.direct import END, head
from losswire.errors import DeadlineError, MessageError, OverloadedError, UnreachableError
from tests.server.directs import run


class Caller:
    """What gRPC would say of a call: as much as is asked here."""

    def peer(self):
        """Where it is."""
        return "ipv4:127.0.0.1:1"


async def over(found, connected, sent):
    """What comes in over a connection by which these bytes are sent, and the peer's end."""
    line, name = await connected()
    await asyncio.get_running_loop().sock_sendall(line, sent)
    coming = Incoming(Receiving(Limits()), Caller())
    coming.connection = found._idle[name]
    return coming, line


def test_pieces_become_the_payload():
    """However they were cut."""
    content = bytes(range(250)) * 400
    cut = [content[:1], content[1:70_000], content[70_000:]]

    async def scenario(found, connected):
        sent = b"".join(head(3, len(one)) + one for one in cut)
        coming, _ = await over(found, connected, sent)
        return bytes(await coming.whole(3, len(content)))

    assert run(scenario) == content


#: Of a payload of number 3, and of 100 bytes.
WRONG = {
    "another payload": head(2, 10),
    "the end": head(END, 0),
    "an empty piece": head(3, 0),
    "beyond its payload": head(3, 101),
    "beyond its payload, after a piece": head(3, 60) + bytes(60) + head(3, 41),
    "beyond all memory": head(3, (1 << 64) - 1),
}


@pytest.mark.parametrize("sent", WRONG.values(), ids=WRONG)
def test_a_piece_that_must_not_come_is_refused_by_its_head(sent):
    """Before there is any memory for it, or anything of it is waited for."""

    async def scenario(found, connected):
        coming, _ = await over(found, connected, sent)
        with pytest.raises(MessageError, match=r"in order|must have 1 to"):
            await coming.whole(3, 100)

    run(scenario)


def test_a_piece_is_no_larger_than_said():
    """Also of a payload that is."""

    async def scenario(found, connected):
        coming, _ = await over(found, connected, head(0, LARGEST + 1))
        with pytest.raises(MessageError, match=f"here at most {LARGEST}"):
            await coming.whole(0, 1 << 40)

    run(scenario)


HALVES = {"nothing": b"", "half a head": head(0, 9)[:7], "half a piece": head(0, 9) + b"half"}


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_a_caller_that_hangs_is_not_waited_for(sent, monkeypatch):
    """A piece must come, and come to its end."""
    monkeypatch.setattr(incoming, "PATIENCE", 0.02)

    async def scenario(found, connected):
        coming, _ = await over(found, connected, sent)
        with pytest.raises(OverloadedError, match=r"a piece must come within 0\.02 s"):
            await coming.whole(0, 9)

    run(scenario)


def test_a_byte_now_and_then_is_too_slow(monkeypatch):
    """Each piece comes in time, but the call would hold its place for ever."""
    seconds = itertools.count(step=20)
    monkeypatch.setattr(incoming, "time", SimpleNamespace(monotonic=lambda: next(seconds)))

    async def scenario(found, connected):
        coming, _ = await over(found, connected, (head(0, 1) + b"x") * 9)
        with pytest.raises(OverloadedError, match="bytes of a call must come within"):
            await coming.whole(0, 9)

    run(scenario)


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_a_caller_that_goes_is_unreachable(sent):
    """Whatever it has sent before."""

    async def scenario(found, connected):
        coming, line = await over(found, connected, sent)
        line.close()
        with pytest.raises(UnreachableError, match="must last for as long as the call"):
            await coming.whole(0, 9)

    run(scenario)


def test_a_caller_that_takes_nothing_is_not_waited_for(monkeypatch):
    """Its line is full at some time."""
    monkeypatch.setattr(outgoing, "PATIENCE", 0.02)

    async def scenario(found, connected):
        _, name = await connected()
        with pytest.raises(DeadlineError, match=r"taken within 0\.02 s"):
            await Outgoing(Caller(), found._idle[name]).payload(0, bytes(64 << 20), 64 << 20)

    run(scenario)


def test_an_answer_that_the_line_takes_in_parts_is_whole():
    """Whatever it takes of a head, and of a piece."""
    content = bytes(range(256)) * (1 << 15)

    async def scenario(found, connected):
        loop = asyncio.get_running_loop()
        line, name = await connected()
        sending = loop.create_task(
            Outgoing(Caller(), found._idle[name]).payload(7, content, piece.MOST)
        )
        taken = b""
        while len(taken) < len(content) + 16:
            taken += await loop.sock_recv(line, 100_003)
        await sending
        return taken

    assert run(scenario) == head(7, len(content)) + content
