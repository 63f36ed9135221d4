"""lossclient.outgoing: by a bypass what must go at once does, what need not gathers, all arrives."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from lossclient.bypass import Bypass
from lossclient.outgoing import Outgoing
from losswire.bypass import Incoming
from losswire.frame import LARGE
from losswire.lists import TOGETHER


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


def test_what_comes_as_the_bypass_does_is_sent(ends):
    """Who leaves something while the way changes cannot send it: the other thread does."""
    outgoing = Outgoing()
    with outgoing._sending:
        outgoing._bypass = bypass = Bypass(ends[0])
        outgoing.put([b"a"])
    threads = [threading.Thread(target=lambda: list(outgoing.messages()))]
    threads[0].start()
    outgoing.go_by(bypass)

    assert received(ends[1], 1) == [b"a"]
    outgoing.end()
    threads[0].join()


def test_what_is_large_goes_by_itself(ends, outgoing, sending):
    """Behind what has gathered it would lie anywhere, and be too long together."""
    for _ in range(3):
        outgoing.put([b"a"], soon=True)
    outgoing.put([bytes(LARGE)])
    sending()  # more than the line takes at once

    assert [len(one) for one in received(ends[1], 3 + LARGE)] == [3, LARGE]


def test_a_list_that_is_long_goes_in_several_messages():
    """Of TOGETHER bytes at most, but for what is longer by itself; nothing empty is sent."""
    outgoing = Outgoing()
    half, long = bytes(TOGETHER // 2), bytes(TOGETHER + 1)
    outgoing.put_together([(2, [half, b""]), (1, [half]), (3, [b"x"]), (1, [long]), (1, [b"y"])])
    outgoing.put_together([])
    outgoing.end()
    found = [len(message) for message in outgoing.messages()]

    assert found == [TOGETHER, 1, TOGETHER + 1, 1]
