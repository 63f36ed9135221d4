"""lossserver.incoming: how slowly the pieces of a call may come."""

import asyncio

import pytest

from lossserver import incoming
from lossserver.admit import Limits
from lossserver.incoming import Incoming
from lossserver.receive import PATIENCE, Receiving
from losswire import piece
from losswire.errors import OverloadedError


class Caller:
    """One that sends pieces of so many bytes, and takes its time for each."""

    def __init__(self, size, seconds):
        self.now = 0.0
        self.sent = 0
        self._size = size
        self._seconds = seconds

    def monotonic(self):
        """The time."""
        return self.now

    def peer(self):
        """Where it is."""
        return "ipv4:127.0.0.1:1"

    async def read(self):
        """The next piece."""
        self.now += self._seconds
        at, self.sent = self.sent, self.sent + self._size
        return piece.write(0, at, bytes(self._size))


def received(caller, size):
    """What comes of a payload of so many bytes."""
    return asyncio.run(Incoming(Receiving(Limits()), caller).whole(0, size))


def test_a_caller_that_sends_a_byte_now_and_then_is_ended(monkeypatch):
    """Each byte would be in time, and the call hold its place for years."""
    caller = Caller(1, 0.9 * PATIENCE)
    monkeypatch.setattr(incoming, "time", caller)

    with pytest.raises(OverloadedError, match="each 1048576 bytes"):
        received(caller, 1 << 20)

    assert caller.sent < 5


def test_a_slow_line_is_no_fault(monkeypatch):
    """A piece at a time, each in time."""
    caller = Caller(piece.LEAST, 0.9 * PATIENCE)
    monkeypatch.setattr(incoming, "time", caller)

    assert len(received(caller, 16 * piece.LEAST)) == 16 * piece.LEAST
