"""Where a server has direct connections: what --direct-port says, and what it says of itself."""

import re
import socket

import numpy as np
import pytest

import lossclient
from lossclient.stream import Stream
from lossserver.config import Listen
from lossserver.server import direct_line
from losswire.v1 import loss_pb2 as pb
from tests.client.directs import idle_of

SIX = socket.has_ipv6


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ({}, "127.0.0.1"),
        ({"host": "localhost"}, "127.0.0.1"),
        ({"host": "127.0.0.2"}, "127.0.0.2"),
        pytest.param({"host": "::1"}, "::1", marks=pytest.mark.skipif(not SIX, reason="no IPv6")),
        ({"direct_port": 0}, None),
        ({"host": "0.0.0.0", "insecure": True}, None),  # noqa: S104
        ({"host": "unix:/tmp/loss.sock"}, None),
        ({"host": "unix:/tmp/loss.sock", "direct_port": 50052}, None),
    ],
    ids=str,
)
def test_by_itself_there_are_some_where_only_this_machine_can_connect(given, address):
    """At a free port; others are for whoever administers a firewall to open."""
    found = direct_line(Listen(**given))
    name = found and found.getsockname()
    if found:
        found.close()

    assert (name and name[0]) == address
    assert not name or name[1] > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104  (it is the test's own)
def test_a_port_that_was_asked_for_is_that_one(host, unused_port):
    """Also where others can connect, if that was allowed."""
    with direct_line(Listen(host=host, insecure=True, direct_port=unused_port)) as found:
        assert found.getsockname() == (host, unused_port)


def test_other_machines_are_not_let_in_without_a_word(unused_port):
    """As at the port of gRPC."""
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 is open to other machines"):
        direct_line(Listen(host="0.0.0.0", direct_port=unused_port))  # noqa: S104


def test_a_port_that_is_taken_is_said():
    """With the option that gives another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        why = rf"cannot listen on 127\.0\.0\.1:{port} \(--direct-port\): Address already in use$"
        with pytest.raises(OSError, match=why):
            direct_line(Listen(direct_port=port))


@pytest.mark.parametrize("port", [-2, 65536])
def test_what_is_no_port_is_refused(port):
    """As it is read."""
    with pytest.raises(ValueError, match=rf"direct_port must be in -1\.\.65535; given {port}"):
        Listen(direct_port=port)


def test_a_port_and_no_shared_memory(serve, unused_port):
    """GetServer tells of it; to a stream it is as good as a Unix socket, and large calls have it."""
    server = serve("--max-shared-bytes", "0", "--direct-port", str(unused_port))
    pred, zeros = np.array([1.0, 2.0]), np.zeros(2)
    with lossclient.connect(server.target) as client:
        line = client.transport.targets.order()[0].line
        reply = pb.GetServerResponse.FromString(line.call("GetServer", b"", 60.0))
        stream = line.keep(Stream, Stream)
        while not stream.bypassed:
            client.compute({"type": "L1Loss"}, pred, zeros)

        assert reply.direct_port == unused_port
        assert stream._carrier._bypass._socket.getpeername()[1] == unused_port
        assert client.compute({"type": "L1Loss"}, pred, zeros).loss == 1.5
        large = np.ones((5 << 20) // 4, np.float32)
        assert client.compute({"type": "L1Loss"}, large, 0 * large).loss == 1.0
        assert len(idle_of(line)) == 1


def test_a_command_that_cannot_listen_there_ends_with_why(serve):
    """And does not serve without."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=r"serving on") as told:
            serve("--direct-port", str(port))

    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port} \(--direct-port\)", str(told.value))
