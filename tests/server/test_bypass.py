"""A stream's bypass, by a client of another make: plain protobuf, and what it does wrong."""

import asyncio
import re
import select
import signal
import socket
import struct

import pytest

import lossclient
from lossserver import bypass, stream
from lossserver.admit import Admission, Limits
from lossserver.awake import Awake
from lossserver.front import Front
from lossserver.metrics import Metrics
from losswire import offer
from losswire.bypass import FRONT, LONGEST
from losswire.v1 import loss_pb2 as pb
from tests.conftest import PATIENCE
from tests.server.pools import pool_of
from tests.server.talk import (
    Beside,
    Joined,
    Talk,
    calls_of,
    descriptors,
    error_of,
    framed,
    loss_of,
    opening,
    request_of,
)

pytestmark = pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux")


@pytest.fixture
def beside(server):
    """Opens streams with a bypass, of the shared server or another."""
    with opening(Beside, server.target) as start:
        yield start


@pytest.fixture(params=[Beside, Joined], ids=["Unix socket", "TCP"])
def either(request, server):
    """The same, with a bypass of either kind."""
    with opening(request.param, server.target) as start:
        yield start


def test_calls_are_answered_by_the_bypass(either):
    """Several in one message, several messages in one piece, and one message in many."""
    one = either()
    one.send(calls_of(0.0, 1.0, 2.0))
    assert {i: loss_of(answer) for i, answer in one.answers(3).items()} == {0: 0.0, 1: 1.0, 2: 2.0}

    numbered = [pb.StreamCall(id=i, request=request_of(i)) for i in range(5)]
    one.socket.sendall(b"".join(framed(pb.ComputeStreamRequest(calls=[c])) for c in numbered))
    assert {i: loss_of(answer) for i, answer in one.answers(5).items()} == dict(enumerate(range(5)))

    for byte in framed(calls_of(7.0)):
        one.socket.sendall(bytes([byte]))
    assert loss_of(one.answers(1)[0]) == 7.0


def test_messages_that_come_together_are_computed_together(serve, beside):
    """Of calls that differ in their numbers alone, each in a message of its own."""
    server = serve()
    one = beside(server.target)
    request = request_of()
    messages = [
        pb.ComputeStreamRequest(calls=[pb.StreamCall(id=64 + i, request=request)])
        for i in range(40)
    ]
    one.socket.sendall(b"".join(map(framed, messages)))

    assert sorted(one.answers(40)) == list(range(64, 104))
    server.find(re.compile("calls=40"))


def test_messages_may_go_either_way(either):
    """And what is sent by gRPC is answered by the bypass, once that is used."""
    one = either()
    one.send(calls_of(1.0))
    one.answers(1)
    Talk.send(one, calls_of(2.0))

    assert loss_of(one.answers(1)[0]) == 2.0


def test_what_is_too_long_goes_by_grpc(either):
    """An answer as well as a call."""
    one = either()
    one.send(calls_of(1.0))
    one.answers(1)
    Talk.send(one, calls_of(3.0, size=LONGEST // 4))

    assert loss_of(one.by_grpc(1)[0]) == 3.0


@pytest.mark.parametrize("size", [100, FRONT, 3 * FRONT + 5, LONGEST - 1000], ids=str)
def test_a_message_may_be_of_any_size(either, size):
    """Received at once, or as it comes."""
    one = either()
    one.send(calls_of(4.0, size=size // 8))

    assert loss_of(one.answers(1)[0]) == pytest.approx(4.0)


def test_a_length_that_lies_ends_the_stream(either):
    """Before any memory is there for it; and the error says how long it may be."""
    one = either()
    one.socket.sendall(struct.pack("<Q", 2**63))

    error = one.end()
    assert isinstance(error, lossclient.MessageTooLargeError)
    assert str(LONGEST) in str(error)
    assert one.hung_up()


def test_what_is_no_message_ends_the_stream(either):
    """As it does by gRPC, with an error that says so."""
    one = either()
    one.send(b"\x0f")

    assert isinstance(one.end(), lossclient.MessageError)
    assert one.hung_up()


def test_an_id_of_a_call_that_came_the_other_way_is_taken(serve, beside):
    """They are calls of one stream."""
    one = beside(serve("--max-wait", "2").target)
    one.send(calls_of(1.0, size=40_000))
    Talk.send(one, calls_of(1.0, size=40_000))

    assert "id: must be of no other call in flight" in str(one.end())


def test_half_a_message_hurts_nobody(either):
    """Not even its own stream, by whose other way calls go on."""
    one, other = either(), either()
    one.socket.sendall(framed(calls_of(1.0))[:-1])
    Talk.send(one, calls_of(2.0))
    other.send(calls_of(3.0))

    assert loss_of(one.by_grpc(1)[0]) == 2.0
    assert loss_of(other.answers(1)[0]) == 3.0


def test_who_lets_go_of_the_bypass_goes_on_by_grpc(either):
    """The stream lives as long as gRPC's."""
    one = either()
    one.send(calls_of(1.0))
    one.answers(1)
    one.socket.shutdown(socket.SHUT_WR)
    assert one.hung_up()
    Talk.send(one, calls_of(2.0))

    assert loss_of(one.by_grpc(1)[0]) == 2.0


def test_there_is_one_bypass_a_stream(either):
    """Who asks again is told of none."""
    one = either()
    one.send(pb.ComputeStreamRequest(bypass=True))
    one.send(calls_of(1.0))

    assert loss_of(one.answers(1)[0]) == 1.0


def test_a_server_that_shares_nothing_has_none(serve):
    """Nor has it direct connections: it says what else it takes, and its calls are answered."""
    one = Talk(serve("--max-shared-bytes", "0", "--direct-port", "0").target)
    one.send(pb.ComputeStreamRequest(bypass=True))
    one.send(calls_of(1.0))

    told, message = next(one.call), next(one.call)
    assert told == pb.ComputeStreamResponse(takes_lists=True)
    assert loss_of(message.answers[0]) == 1.0
    one.close()


def fill(line, most):
    """Send calls until the line takes no more, or so many; how many it took."""
    request = request_of(size=4096)
    for taken in range(most):
        left = framed(pb.ComputeStreamRequest(calls=[pb.StreamCall(id=taken, request=request)]))
        while left:
            if not select.select([], [line], [], 2.0)[1]:
                return taken
            left = left[line.send(left) :]
    return most


def test_a_client_that_does_not_read_is_not_read_from(serve, beside):
    """Its line is full at some time, and another is served meanwhile."""
    server = serve("--max-calls-in-flight", "100000")
    silent, other = beside(server.target), beside(server.target)
    silent.socket.setblocking(False)

    assert fill(silent.socket, 5000) < 3000
    other.send(calls_of(3.0))
    assert loss_of(other.answers(1)[0]) == 3.0


def test_an_answer_that_nobody_takes_ends_the_stream(serve, beside):
    """Its client has hung up the bypass amid it, and gRPC is still there to say so."""
    server = serve("--max-calls-in-flight", "100000")
    silent = beside(server.target)
    silent.socket.setblocking(False)
    fill(silent.socket, 5000)
    silent.socket.shutdown(socket.SHUT_RDWR)

    assert isinstance(silent.end(), lossclient.OverloadedError)


def test_a_pair_is_had_under_its_name_until_it_is_withdrawn():
    """By whoever asks first; withdrawn, it is nobody's, and no descriptor is left."""

    async def scenario():
        before = descriptors()
        near, name, withdraw = bypass.pair()
        with near, socket.socket(fileno=await asyncio.to_thread(offer.taken, name)) as far:
            far.send(b"across")
            near.setblocking(True)
            across = near.recv(99)
        withdraw()
        near, name, withdraw = bypass.pair()
        withdraw()
        with near, pytest.raises(OSError, match=r"refused|No such"):
            await asyncio.to_thread(offer.taken, name)
        return across, descriptors() - before

    assert asyncio.run(scenario()) == (b"across", 0)


def near_and_far():
    """Both ends of a bypass, ours first, which does not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    return near, far


def test_a_message_that_does_not_come_to_its_end_is_not_waited_for(monkeypatch):
    """However much of it is there, and though more of it comes; between messages there is no limit."""
    monkeypatch.setattr(bypass, "PATIENCE", 0.2)

    async def scenario():
        broken = asyncio.get_running_loop().create_future()
        taken = []

        async def take(messages):
            taken.extend(messages)

        ours, theirs = near_and_far()
        with theirs:
            made = bypass.Bypass(ours, take, broken.set_result, Awake(0.0, lambda: False))
            theirs.sendall(framed(b"whole") + framed(b"half")[:-2])
            error = await asyncio.wait_for(broken, PATIENCE)
            made.end()
        return taken, error

    taken, error = asyncio.run(scenario())
    assert taken == [b"whole"]
    assert "must come within" in str(error)


def test_what_cannot_be_begun_with_is_told():
    """A mistake of ours ends the stream with an error, instead of a client that waits for ever."""

    async def scenario():
        broken = asyncio.get_running_loop().create_future()

        async def take(_):
            raise ZeroDivisionError

        ours, theirs = near_and_far()
        with theirs:
            made = bypass.Bypass(ours, take, broken.set_result, Awake(0.0, lambda: False))
            theirs.sendall(framed(b"message"))
            error = await asyncio.wait_for(broken, PATIENCE)
            made.end()
        return error

    assert isinstance(asyncio.run(scenario()), lossclient.InternalError)


def test_of_many_messages_others_have_a_turn_between():
    """Also where nothing is in them: thousands fit into what is received at once."""

    async def scenario():
        limits = Limits()
        front = Front(pool_of(), Admission(limits), limits, Metrics())
        one = stream.Stream(front, Silent())
        taking = asyncio.ensure_future(one._take_all([b""] * 100))
        turns = 0
        while not taking.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(scenario()) >= 99


class Silent:
    """What gRPC would say of a stream: as much as is asked here."""

    def peer_identities(self):
        return None

    def peer(self):
        return "ipv4:127.0.0.1:1"


def test_a_server_that_is_stopped_answers_by_the_bypass(serve, beside):
    """What it has, and how the stream ends gRPC says."""
    server = serve("--max-wait", "50")
    one = beside(server.target)
    one.send(calls_of(1.0, size=40_000))
    one.send(
        pb.ComputeStreamRequest(
            calls=[pb.StreamCall(id=9, request=request_of(config={"type": "Nope"}))]
        )
    )
    assert isinstance(error_of(one.answers(1)[9]), lossclient.UnknownLossError)
    code = server.stop(signal.SIGTERM)

    assert code == 0
    assert loss_of(one.answers(1)[0]) == 1.0
    assert isinstance(one.end(), lossclient.DrainingError)
    assert one.hung_up()


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "never asked for"])
def test_streams_that_end_leave_no_descriptor(serve, taken):
    """However many come and go, in use or not."""
    server = serve()

    def come_and_go():
        if taken:
            one = Beside(server.target)
            one.send(calls_of(1.0))
            one.answers(1)
        else:
            one = Talk(server.target)
            one.send(pb.ComputeStreamRequest(bypass=True))
            next(one.call)
        one.send(None)
        assert one.end() is None
        one.close()

    come_and_go()
    before = descriptors(server.process.pid)
    for _ in range(30):
        come_and_go()

    assert (
        descriptors(server.process.pid) <= before + 5
    )  # connections that gRPC closes a moment later
