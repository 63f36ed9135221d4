"""lossclient.outgoing: by a bypass what must go at once does, what need not gathers, all arrives."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lossclient.bypass import Bypass
from lossclient.outgoing import Outgoing
from losswire.bypass import Incoming


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(30)
        yield near, far


@pytest.fixture
def outgoing(ends):
    found = Outgoing()
    found.go_by(Bypass(ends[0]))
    return found


@pytest.fixture
def sending(outgoing):
    """Starts the thread that gRPC has for what is to be sent."""
    threads = [threading.Thread(target=lambda: list(outgoing.messages()))]
    yield threads[0].start
    outgoing.end()
    threads[0].join()


def received(line, count):
    """The next messages, so many calls of one byte in all."""
    incoming, found = Incoming(), []
    while sum(map(len, found)) < count:
        found += incoming.came(line.recv_into(incoming.room()))
    return found


def test_what_may_go_soon_goes_together(ends, outgoing, sending):
    """Until the other thread looks nothing is sent, and then all in one message."""
    outgoing.put([b"a"], soon=True)
    outgoing.put([b"b"], soon=True)
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[1].recv(1)

    ends[1].settimeout(30)
    sending()
    assert received(ends[1], 2) == [b"ab"]


def test_what_must_go_at_once_takes_it_along(ends, outgoing):
    """Without another thread, and in order."""
    outgoing.put([b"a"], soon=True)
    outgoing.put([b"b"])

    assert received(ends[1], 2) == [b"ab"]


def test_nothing_is_left(ends, outgoing, sending):
    """Whoever leaves something while the other thread looks is seen by it, or heard."""
    sending()

    def leave(number):
        for _ in range(3000):
            outgoing.put([b"%d" % number], soon=True)

    with ThreadPoolExecutor(4) as pool:
        pool.map(leave, range(4))
        found = b"".join(received(ends[1], 12000))

    assert [found.count(b"%d" % number) for number in range(4)] == [3000] * 4
