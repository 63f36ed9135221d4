"""Shared memory over a stream, by a client of another make, and what a hostile one tries."""

import contextlib

import numpy as np
import pytest
from google.rpc import status_pb2

from losswire import region
from losswire.offer import AVAILABLE
from losswire.v1 import loss_pb2 as pb
from tests.server.test_stream import Talk, request_of

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs Linux")

SIZE = 1 << 16
COUNT = 256


@pytest.fixture
def talk(server):
    with contextlib.closing(Peer(server.target)) as talk:
        yield talk


class Peer(Talk):
    """A stream and its regions."""

    def opened(self, number=1, size=SIZE):
        """A region of the stream, mapped."""
        return region.taken(self.asked(number, size).name, size)

    def asked(self, number=1, size=SIZE):
        """What is said of a region that was asked for."""
        self.say(open=[pb.OpenRegion(region=number, bytes=size)])
        (told,) = next(self.call).regions
        return told

    def error(self, request, **more):
        """What went wrong with a call, of which the stream is none the worse."""
        self.say(pb.StreamCall(id=1, request=request, **more))
        status = self.answers(1)[1].status
        self.say(pb.StreamCall(id=2, request=request_of()))
        assert self.answers(1)[2].HasField("response")
        return told(status)


def told(status):
    """The text of a status."""
    return status_pb2.Status.FromString(status).message


def placed(number=1, offsets=(0, 4096), count=COUNT):
    """A call whose pred and target are in a region."""
    request = request_of(size=count)
    del request.payloads[:]
    for offset in offsets:
        span = pb.Span(region=number, offset=offset, bytes=4 * count)
        request.elsewhere.append(pb.Elsewhere(span=span))
    return request


def floats(memory, offset, count=COUNT):
    return np.frombuffer(memory, np.float32, count, offset)


def test_a_call_is_read_and_answered_in_shared_memory(talk):
    """Pred and target are read where they were written, the gradient is found where it was wanted."""
    memory = talk.opened()
    floats(memory, 0)[:] = 3
    answer = pb.Span(region=1, offset=8192, bytes=4096)
    talk.say(pb.StreamCall(id=1, request=placed(), answer=answer))
    response = talk.answers(1)[1].response
    loss, grad = (one.span for one in response.elsewhere)

    assert list(response.payloads) == []
    assert floats(memory, loss.offset, 1) == 3
    assert np.array_equal(floats(memory, grad.offset), np.full(COUNT, 1 / COUNT, np.float32))
    assert {loss.offset // 4096, grad.offset // 4096} == {2}


def test_an_answer_for_which_there_is_no_room_is_in_its_message(talk):
    """What does not fit into the span that was meant for it comes as it would without."""
    talk.opened()
    answer = pb.Span(region=1, offset=8192, bytes=64)
    talk.say(pb.StreamCall(id=1, request=placed(), answer=answer))
    response = talk.answers(1)[1].response

    assert [len(one) for one in response.payloads] == [4, 4 * COUNT]
    assert list(response.elsewhere) == []


def test_what_is_written_meanwhile_harms_nobody(talk):
    """Pred and target may change at any time: each answer is one, or an error, and the server serves."""
    memory = talk.opened()
    request = placed()
    request.header.config.map_value.entries["type"].string_value = "CrossEntropyLoss"
    classes = request.header.inputs["target"].tensor_value
    classes.dtype, classes.shape[:] = pb.DTYPE_INT64, [4]
    request.header.inputs["pred"].tensor_value.shape[:] = [4, COUNT // 4]
    request.elsewhere[1].span.bytes = 32
    target = np.frombuffer(memory, np.int64, 4, 4096)
    for number in range(200):
        talk.say(pb.StreamCall(id=number, request=request))
        target[number % 4] = -(2**40) if number % 2 else 1
        floats(memory, 0)[number % COUNT] = np.nan
    answers = talk.answers(200)
    target[:] = 0
    floats(memory, 0)[:] = 0
    talk.say(pb.StreamCall(id=1000, request=request))

    assert talk.answers(1)[1000].HasField("response")
    assert all("target" in told(a.status) for a in answers.values() if a.status)


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (placed(number=2), "region of its stream"),
        (placed(offsets=(0, 4100)), "multiple of 64"),
        (placed(offsets=(0, SIZE)), "lie in its region"),
        (placed(offsets=(0,)), "payload must be one of the 1"),
        (placed(offsets=(0, 4096, 8192)), "named by a tensor"),
    ],
)
def test_a_span_that_lies_is_an_error_of_its_call(talk, request_, rule):
    """Whatever it says; and the next call goes well."""
    talk.opened()

    assert rule in talk.error(request_)


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (pb.Span(region=9, bytes=64), "region of its stream"),
        (pb.Span(region=1, offset=SIZE, bytes=64), "lie in its region"),
        (pb.Span(region=1, offset=1024, bytes=4096), "apart"),
    ],
)
def test_an_answers_span_that_lies_is_an_error_of_its_call(talk, answer, rule):
    """No region of the stream, beyond its end, or over what the call reads."""
    talk.opened()

    assert rule in talk.error(placed(), answer=answer)


def test_another_streams_region_is_out_of_reach(talk, server):
    """Its number means nothing here, and its name is gone with the first who asked."""
    with contextlib.closing(Peer(server.target)) as other:
        name = other.asked(7).name
        mine = region.taken(name, SIZE)
        with pytest.raises(OSError, match=r"."):
            region.taken(name, SIZE)

        assert "region of its stream" in talk.error(placed(number=7))
        assert len(mine) == SIZE


def test_a_call_without_a_stream_has_no_region(client):
    """A unary call that names a span is refused."""
    message = placed().SerializeToString()

    with pytest.raises(Exception, match="region of the call's own stream"):
        client.transport.call("Compute", message, 10)


@pytest.mark.parametrize(
    ("number", "size", "rule"),
    [
        (1, SIZE, "no other region"),
        (2, 0, "at least 1 byte"),
        (2, 1 << 60, "a stream may have at most"),
        (2, (1 << 30) - SIZE + 1, "a stream may have at most"),
    ],
)
def test_a_region_that_is_not_to_be_had_is_an_error_of_its_own(talk, number, size, rule):
    """The stream goes on, with the regions that it has."""
    memory = talk.opened()
    error = told(talk.asked(number, size).status)
    talk.say(pb.StreamCall(id=1, request=placed()))

    assert rule in error
    assert talk.answers(1)[1].HasField("response")
    assert len(memory) == SIZE


def test_a_region_that_was_closed_is_gone(talk):
    """A later call cannot read it; its number may be used again."""
    talk.opened()
    talk.say(closed=[1])

    assert "region of its stream" in talk.error(placed())
    assert talk.asked().name
