"""A stream whose bypass is a direct connection, by a client of another make."""

import re

import pytest

import lossclient
from losswire import offer
from losswire.direct import NAME
from losswire.v1 import loss_pb2 as pb
from tests.server.large_calls import Made
from tests.server.talk import (
    Beside,
    Joined,
    Talk,
    calls_of,
    connected,
    descriptors,
    direct_port_of,
    framed,
    loss_of,
    opening,
)
from tests.server.test_large_direct import Directly


@pytest.fixture
def joined(server):
    """Opens streams that have joined a direct connection, of the shared server or another."""
    with opening(Joined, server.target) as start:
        yield start


@pytest.fixture
def talk(server):
    """Opens streams by gRPC alone."""
    with opening(Talk, server.target) as start:
        yield start


@pytest.fixture
def connection(server):
    """A direct connection to the shared server, and its name."""
    line, name = connected(server.target)
    with line:
        yield line, name


def assert_nothing_said(one):
    """The next message of a stream, by gRPC, is the answer to the next call."""
    Talk.send(one, calls_of(5.0))
    told = next(one.call)

    assert not told.joined
    assert loss_of(told.answers[0]) == 5.0


def test_who_wishes_for_a_bypass_is_told_of_the_port(server, talk):
    """The same that GetServer tells; beside a name where there is shared memory."""
    one = talk()
    one.say(bypass=True)
    told = next(one.call)

    assert told.direct_port == direct_port_of(server.target) > 0
    assert bool(told.bypass) == offer.AVAILABLE


def test_a_connection_that_has_joined_is_the_bypass(joined):
    """Calls come by it, and answers go by it, once it is used."""
    one = joined()
    Talk.send(one, calls_of(1.0))
    assert loss_of(one.by_grpc(1)[0]) == 1.0
    one.send(calls_of(2.0))
    assert loss_of(one.answers(1)[0]) == 2.0
    Talk.send(one, calls_of(3.0))

    assert loss_of(one.answers(1)[0]) == 3.0


def test_a_connection_of_large_calls_may_join(server, talk, client):
    """Small messages are heard over it, though large pieces were waited for before."""
    made, one = Made(), Directly(server.target)
    made.assert_answered(one.ask(made), client)
    stream = talk()
    stream.say(direct=one.name)
    assert next(stream.call).joined
    one.line.sendall(framed(calls_of(6.0)))
    length = int.from_bytes(one.line.recv(8), "little")
    told = pb.ComputeStreamResponse.FromString(one.line.recv(length))

    assert loss_of(told.answers[0]) == 6.0
    one.close()


@pytest.mark.parametrize("name", [b"x", bytes(NAME), bytes(NAME + 1), bytes(1 << 20)], ids=len)
def test_of_a_name_that_nobody_has_nothing_is_said(name, talk):
    """And all goes on by gRPC."""
    one = talk()
    one.say(direct=name)

    assert_nothing_said(one)


def test_a_connection_is_one_streams(joined, server, talk, connection):
    """Who has joined has it for good: another stream does not get it, nor does a large call."""
    (_, name), one, other = connection, joined(), talk()
    other.send(pb.ComputeStreamRequest(direct=name))
    assert next(other.call).joined
    third = talk()
    third.say(direct=name)
    assert_nothing_said(third)
    large = Directly(server.target, connection)
    large.begin(Made().header)

    assert isinstance(super(Directly, large).refusal(), lossclient.NotServedError)
    one.send(calls_of(1.0))
    assert loss_of(one.answers(1)[0]) == 1.0
    large.close()


def test_a_second_one_is_refused_while_the_first_is_used(joined, connection):
    """Which goes on; and the second is idle still, for any who names it."""
    (_, name), one, other = connection, joined(), joined()
    one.send(calls_of(1.0))
    one.answers(1)
    Talk.send(one, pb.ComputeStreamRequest(direct=name))
    one.send(calls_of(2.0))
    assert loss_of(one.answers(1)[0]) == 2.0

    Talk.send(other, pb.ComputeStreamRequest(direct=name))
    assert next(other.call).joined
    assert other.hung_up()  # its first, which it had never used


def test_it_takes_the_place_of_a_unix_socket_that_is_not_used(talk, connection):
    """As of a client that could not have that."""
    one, (line, name) = talk(), connection
    one.say(bypass=True, direct=name)
    joined = [next(one.call).joined]
    if not joined[0]:
        joined.append(next(one.call).joined)
    line.sendall(framed(calls_of(4.0)))
    length = int.from_bytes(line.recv(8), "little")
    told = pb.ComputeStreamResponse.FromString(line.recv(length))

    assert joined[-1]
    assert loss_of(told.answers[0]) == 4.0


@pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux")
def test_a_unix_socket_that_is_used_is_not_replaced(server, connection):
    """Its stream goes on by it."""
    with opening(Beside, server.target) as beside:
        one = beside()
        one.send(calls_of(1.0))
        one.answers(1)
        Talk.send(one, pb.ComputeStreamRequest(direct=connection[1]))
        one.send(calls_of(2.0))

        assert loss_of(one.answers(1)[0]) == 2.0


def test_it_ends_with_its_stream(joined):
    """However that ends."""
    ends = [lambda one: one.send(None), lambda one: one.call.cancel()]
    for used in (True, False):
        for end in ends:
            one = joined()
            if used:
                one.send(calls_of(1.0))
                one.answers(1)
            end(one)

            assert one.hung_up()


def test_a_server_that_shares_nothing_has_it_and_no_end_of_them(serve):
    """As many streams, one after another, as may have one at a time and more: all are let go of."""
    server = serve("--max-shared-bytes", "0")
    with opening(Talk, server.target) as talk:
        one = talk()
        one.say(bypass=True)
        told = next(one.call)
        assert (told.bypass, told.direct_port) == ("", direct_port_of(server.target))
    before = descriptors(server.process.pid)
    for i in range(300):
        one = Joined(server.target)
        if i % 2:
            one.send(calls_of(1.0))
            one.answers(1)
        one.send(None)
        assert one.end() is None
        one.close()

    assert descriptors(server.process.pid) <= before + 20
    assert not re.search("Traceback", server.log.read_text())
