"""What a server may say over a direct connection that is no answer, and when connecting is left off."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import grpc
import numpy as np
import pytest

from lossclient import direct as directs
from lossclient import directly
from lossclient.call import call_message
from lossclient.direct import FIRST_REST, LONGEST_REST, Directs
from lossclient.directly import pieces
from lossclient.line import Line
from losswire import direct, frame
from losswire.errors import InternalError, UnreachableError
from losswire.piece import LARGEST
from losswire.v1 import loss_pb2 as pb
from tests.client.directs import directs_of, idle_of
from tests.conftest import PATIENCE

ONES = np.ones((512, 512), np.float32)


@contextmanager
def saying(header, said, *, reads=True):
    """A line to a server that says these bytes over a direct connection, and this header by gRPC."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(8) as pool:

        def talk():
            with listening.accept()[0] as line, suppress(ConnectionError):  # the client hangs up
                line.sendall(direct.MAGIC + bytes(direct.NAME))
                line.recv(direct.NAME, socket.MSG_WAITALL)
                line.sendall(direct.WELCOME + said)
                line.shutdown(socket.SHUT_WR)
                while reads and line.recv(1 << 20):
                    pass
                over.wait(PATIENCE)

        port = listening.getsockname()[1]
        methods = {
            "GetServer": grpc.unary_unary_rpc_method_handler(
                lambda *_: pb.GetServerResponse(direct_port=port).SerializeToString()
            ),
            "ComputeLarge": grpc.stream_stream_rpc_method_handler(lambda *_: iter([header])),
        }
        server = grpc.server(pool)
        server.add_registered_method_handlers("losswire.v1.LossService", methods)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        talking = pool.submit(talk)
        line = Line(target, None, -1)
        yield line
        line.close()
        over.set()
        server.stop(None).wait()
        talking.result(PATIENCE)


END = direct.head(direct.END, 0)
HEADER = frame.write(b"header", [])
NO_ANSWER = {
    "no message": (b"\xff\xff", END),
    "no header": (b"", END),
    "no first payload": (HEADER, direct.head(1, 4) + b"grad" + END),
    "a piece as header": (frame.write(b"", [b"\x1a\x04loss"]), END),
    "a number beyond all payloads": (HEADER, direct.head(1 << 63, 4) + b"grad" + END),
    "a length beyond all memory": (HEADER, direct.head(0, 1 << 62)),
    "a piece above the largest": (HEADER, direct.head(0, LARGEST + 1)),
    "a piece of nothing": (HEADER, direct.head(0, 0)),
    "lengths beyond all numbers": (HEADER, direct.head(0, (1 << 64) - 1)),
}


@pytest.mark.parametrize(("header", "said"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_an_answer_that_is_none_is_the_server_s_fault(header, said):
    """And not taken for one; nor is the connection used again."""
    with saying(header, said) as line:
        with pytest.raises(InternalError):
            pieces(call_message({"type": "L1Loss"}, ONES, ONES), line, PATIENCE)

        assert idle_of(line) == []


def test_an_answer_to_what_was_not_read_is_none(monkeypatch):
    """It cannot be to this call; and what is left of that must not stand before the next."""
    monkeypatch.setattr(directly, "TOLD", 0.2)
    header = pb.ResultHeader(metrics=["acc"]).SerializeToString()
    large = np.ones((64 << 20) // 4, np.float32)
    with saying(frame.write(header, []), END, reads=False) as line:
        with pytest.raises(InternalError, match="before all of the call was read"):
            pieces(call_message({"type": "L1Loss"}, large, large), line, PATIENCE)

        assert idle_of(line) == []


def test_an_answer_that_breaks_off_is_none():
    """Though gRPC says that the call went well: so the call is sent again."""
    with saying(HEADER, direct.head(0, 4) + b"lo") as line:
        with pytest.raises(UnreachableError, match="must last for a call"):
            pieces(call_message({"type": "L1Loss"}, ONES, ONES), line, PATIENCE)

        assert idle_of(line) == []


class Elsewhere:
    """A line to a server whose port for direct connections nobody listens on."""

    target = "127.0.0.1:1"
    host = "127.0.0.1"

    def __init__(self, port):
        self.port = port
        self.asked = 0

    def call(self, method, message, timeout):
        """The answer of GetServer."""
        assert method == "GetServer"
        self.asked += 1
        return pb.GetServerResponse(direct_port=self.port).SerializeToString()


class Clock:
    """What time it is."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        """The time."""
        return self.now


@pytest.mark.parametrize("has_port", [True, False], ids=["refused", "no port"])
def test_where_none_can_be_had_it_is_asked_ever_less_often(monkeypatch, unused_port, has_port):
    """Not for each call: a call in vain, or a second of waiting, would be the price of each."""
    clock = Clock()
    monkeypatch.setattr(directs, "time", clock)
    line = Elsewhere(unused_port if has_port else 0)
    kept = Directs(line)
    rest, rests = FIRST_REST, 0
    while rest < LONGEST_REST:
        assert kept.take(line, 1.0) is None
        assert line.asked == rests + 1
        clock.now += rest * 0.99
        assert kept.take(line, 1.0) is None
        assert line.asked == rests + 1
        clock.now += rest * 0.02
        rest, rests = 2 * rest, rests + 1
    for _ in range(3):
        assert kept.take(line, 1.0) is None
        clock.now += LONGEST_REST * 1.01

    assert line.asked == rests + 3


def test_calls_that_fail_together_count_once():
    """Else a dozen threads would do without for an hour, the server being away for a second."""
    kept = Directs(Elsewhere(0))
    for _ in range(12):
        kept.failed("it is away")

    assert 0 < kept._rests_until - time.monotonic() <= FIRST_REST


def test_those_that_nobody_needs_are_closed(server):
    """The server closes them, too; of many that were needed at once one stays."""
    line = Line(server.target, None, -1)
    kept = directs_of(line)
    taken = [kept.take(line, PATIENCE) for _ in range(3)]
    for one in taken:
        kept.give_back(one)
    for one in taken[:2]:
        one.until = 0.0
    kept.give_back(kept.take(line, PATIENCE))

    assert idle_of(line) == taken[2:]
    assert [one.line.fileno() >= 0 for one in taken] == [False, False, True]
    line.close()


NOT_CONNECTED_TO = [
    "unix:/tmp/x",
    "dns:///loss:1",
    "127.0.0.1:1,127.0.0.1:2",
    "ipv4:1.2.3.4:5,6.7.8.9:1",
    "unix-abstract:1",
]
HOSTS = {
    "127.0.0.1:50051": "127.0.0.1",
    "localhost:1": "localhost",
    "ipv4:10.0.0.7:8": "10.0.0.7",
    "[::1]:50051": "::1",
    "ipv6:[fe80::1]:1": "fe80::1",
    "loss.example:443": "loss.example",
} | dict.fromkeys(NOT_CONNECTED_TO, "")


@pytest.mark.parametrize(("target", "host"), HOSTS.items(), ids=HOSTS)
def test_one_host_alone_is_connected_to(target, host):
    """Of several servers another may have the port; a Unix socket has none."""
    assert Line(target, None, -1).host == host


def test_what_is_encrypted_stays_so():
    """Where the server is spoken to with TLS no other port of it is."""
    line = Line("loss.example:443", grpc.ssl_channel_credentials(), -1)

    assert line.host == ""
    assert directs_of(line).take(line, 1.0) is None
    line.close()
