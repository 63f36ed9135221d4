"""A stream's bypass, by a client of another make: plain protobuf, and what it does wrong."""

import asyncio
import re
import select
import signal
import socket
import struct
from pathlib import Path

import pytest

import lossclient
from lossserver import bypass, stream
from lossserver.admit import Admission, Limits
from lossserver.front import Front
from lossserver.metrics import Metrics
from losswire import offer
from losswire.bypass import FRONT, LONGEST
from losswire.v1 import loss_pb2 as pb
from tests.conftest import PATIENCE
from tests.server.pools import pool_of
from tests.server.talk import Talk, error_of, loss_of, opening, request_of

pytestmark = pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux")


class Beside(Talk):
    """A stream with a bypass, by which its calls go."""

    def __init__(self, target):
        super().__init__(target)
        super().send(pb.ComputeStreamRequest(bypass=True))
        self.socket = socket.socket(fileno=offer.taken(next(self.call).bypass))
        self.socket.settimeout(PATIENCE)
        self._told = self.socket.makefile("rb")

    def send(self, message):
        """Send a message by the bypass; None, the end, by gRPC."""
        if message is None:
            super().send(None)
        else:
            self.socket.sendall(framed(message))

    def answers(self, count):
        """So many answers that come by the bypass, by id."""
        found = {}
        while len(found) < count:
            (length,) = struct.unpack("<Q", self._received(8))
            told = pb.ComputeStreamResponse.FromString(self._received(length))
            assert not told.bypass
            found |= {answer.id: answer for answer in told.answers}
        return found

    def by_grpc(self, count):
        """So many answers that come by gRPC."""
        return super().answers(count)

    def hung_up(self):
        """Whether the server has closed its end, what it has sent before passed over."""
        while self._told.read(1 << 16):
            pass
        return True

    def close(self):
        """Hang up, both ways."""
        self._told.close()
        self.socket.close()
        super().close()

    def _received(self, size):
        found = self._told.read(size)
        assert len(found) == size
        return found


def framed(message):
    """A message as it goes over a bypass."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack("<Q", len(content)) + content


@pytest.fixture
def beside(server):
    """Opens streams with a bypass, of the shared server or another."""
    with opening(Beside, server.target) as start:
        yield start


def calls(*preds, **more):
    """A message with calls whose ids are their places, and whose losses are these."""
    return pb.ComputeStreamRequest(
        calls=[
            pb.StreamCall(id=i, request=request_of(pred, **more)) for i, pred in enumerate(preds)
        ]
    )


def test_calls_are_answered_by_the_bypass(beside):
    """Several in one message, several messages in one piece, and one message in many."""
    one = beside()
    one.send(calls(0.0, 1.0, 2.0))
    assert {i: loss_of(answer) for i, answer in one.answers(3).items()} == {0: 0.0, 1: 1.0, 2: 2.0}

    numbered = [pb.StreamCall(id=i, request=request_of(i)) for i in range(5)]
    one.socket.sendall(b"".join(framed(pb.ComputeStreamRequest(calls=[c])) for c in numbered))
    assert {i: loss_of(answer) for i, answer in one.answers(5).items()} == dict(enumerate(range(5)))

    for byte in framed(calls(7.0)):
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


def test_messages_may_go_either_way(beside):
    """And what is sent by gRPC is answered by the bypass, once that is used."""
    one = beside()
    one.send(calls(1.0))
    one.answers(1)
    Talk.send(one, calls(2.0))

    assert loss_of(one.answers(1)[0]) == 2.0


def test_what_is_too_long_goes_by_grpc(beside):
    """An answer as well as a call."""
    one = beside()
    one.send(calls(1.0))
    one.answers(1)
    Talk.send(one, calls(3.0, size=LONGEST // 4))

    assert loss_of(one.by_grpc(1)[0]) == 3.0


@pytest.mark.parametrize("size", [100, FRONT, 3 * FRONT + 5, LONGEST - 1000], ids=str)
def test_a_message_may_be_of_any_size(beside, size):
    """Received at once, or as it comes."""
    one = beside()
    one.send(calls(4.0, size=size // 8))

    assert loss_of(one.answers(1)[0]) == pytest.approx(4.0)


def test_a_length_that_lies_ends_the_stream(beside):
    """Before any memory is there for it; and the error says how long it may be."""
    one = beside()
    one.socket.sendall(struct.pack("<Q", 2**63))

    error = one.end()
    assert isinstance(error, lossclient.MessageTooLargeError)
    assert str(LONGEST) in str(error)
    assert one.hung_up()


def test_what_is_no_message_ends_the_stream(beside):
    """As it does by gRPC, with an error that says so."""
    one = beside()
    one.send(b"\x0f")

    assert isinstance(one.end(), lossclient.MessageError)
    assert one.hung_up()


def test_an_id_of_a_call_that_came_the_other_way_is_taken(serve, beside):
    """They are calls of one stream."""
    one = beside(serve("--max-wait", "2").target)
    one.send(calls(1.0, size=40_000))
    Talk.send(one, calls(1.0, size=40_000))

    assert "id: must be of no other call in flight" in str(one.end())


def test_half_a_message_hurts_nobody(beside):
    """Not even its own stream, by whose other way calls go on."""
    one, other = beside(), beside()
    one.socket.sendall(framed(calls(1.0))[:-1])
    Talk.send(one, calls(2.0))
    other.send(calls(3.0))

    assert loss_of(one.by_grpc(1)[0]) == 2.0
    assert loss_of(other.answers(1)[0]) == 3.0


def test_who_lets_go_of_the_bypass_goes_on_by_grpc(beside):
    """The stream lives as long as gRPC's."""
    one = beside()
    one.send(calls(1.0))
    one.answers(1)
    one.socket.shutdown(socket.SHUT_WR)
    assert one.hung_up()
    Talk.send(one, calls(2.0))

    assert loss_of(one.by_grpc(1)[0]) == 2.0


def test_there_is_one_bypass_a_stream(beside):
    """Who asks again is told of none."""
    one = beside()
    one.send(pb.ComputeStreamRequest(bypass=True))
    one.send(calls(1.0))

    assert loss_of(one.answers(1)[0]) == 1.0


def test_a_server_that_shares_nothing_has_none(serve):
    """The wish is passed over, and its calls are answered."""
    one = Talk(serve("--max-shared-bytes", "0").target)
    one.send(pb.ComputeStreamRequest(bypass=True))
    one.send(calls(1.0))

    message = next(one.call)
    assert not message.bypass
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
    other.send(calls(3.0))
    assert loss_of(other.answers(1)[0]) == 3.0


def test_an_answer_that_nobody_takes_ends_the_stream(serve, beside):
    """Its client has hung up the bypass amid it, and gRPC is still there to say so."""
    server = serve("--max-calls-in-flight", "100000")
    silent = beside(server.target)
    silent.socket.setblocking(False)
    fill(silent.socket, 5000)
    silent.socket.shutdown(socket.SHUT_RDWR)

    assert isinstance(silent.end(), lossclient.OverloadedError)


def test_a_message_that_does_not_come_to_its_end_is_not_waited_for(monkeypatch):
    """However much of it is there, and though more of it comes; between messages there is no limit."""
    monkeypatch.setattr(bypass, "PATIENCE", 0.2)

    async def scenario():
        broken = asyncio.get_running_loop().create_future()
        taken = []

        async def take(messages):
            taken.extend(messages)

        made = bypass.Bypass(take, broken.set_result)
        theirs = socket.socket(fileno=await asyncio.to_thread(offer.taken, made.name))
        with theirs:
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

        made = bypass.Bypass(take, broken.set_result)
        with socket.socket(fileno=await asyncio.to_thread(offer.taken, made.name)) as theirs:
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
        one = stream._Stream(front, Silent())
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
    one.send(calls(1.0, size=40_000))
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


def descriptors(server):
    """How many the server has open."""
    return len(list(Path("/proc", str(server.process.pid), "fd").iterdir()))


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "never asked for"])
def test_streams_that_end_leave_no_descriptor(serve, taken):
    """However many come and go, in use or not."""
    server = serve()

    def come_and_go():
        if taken:
            one = Beside(server.target)
            one.send(calls(1.0))
            one.answers(1)
        else:
            one = Talk(server.target)
            one.send(pb.ComputeStreamRequest(bypass=True))
            next(one.call)
        one.send(None)
        assert one.end() is None
        one.close()

    come_and_go()
    before = descriptors(server)
    for _ in range(30):
        come_and_go()

    assert descriptors(server) <= before + 5  # connections that gRPC closes a moment later
