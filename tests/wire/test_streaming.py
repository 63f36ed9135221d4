"""The messages of a ComputeStream: the same bytes as protobuf's, and nothing believed of a stranger's."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire import frame, saying, streaming
from losswire.errors import MessageError
from losswire.frame import Parts
from losswire.v1 import loss_pb2 as pb

REQUEST = pb.ComputeRequest(
    header=pb.ComputeHeader(wrt=["pred"]), payloads=[b"abc", b""], elsewhere=[pb.Elsewhere()]
)
PARTS = Parts(REQUEST.header.SerializeToString(), [b"abc", memoryview(b"")], [b""])
NUMBERS = st.integers(0, 2**64 - 1)


@given(NUMBERS, st.none() | st.floats(allow_nan=False), st.booleans())
def test_a_call_is_written_as_protobuf_has_it(number, timeout, shared):
    """Any protobuf library reads what is joined by hand."""
    span = pb.Span(region=7, offset=64, bytes=3) if shared else None
    answer = span.SerializeToString() if span else b""
    written = b"".join(saying.call(number, timeout, PARTS, answer))

    read = pb.ComputeStreamRequest.FromString(written)
    call = pb.StreamCall(id=number, timeout=timeout, answer=span, request=REQUEST)
    assert read == pb.ComputeStreamRequest(calls=[call])


@given(st.lists(NUMBERS, max_size=5), st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_a_message_of_protobuf_is_read(cancelled, closed):
    """All fields of a message, however protobuf has packed them."""
    message = pb.ComputeStreamRequest(
        calls=[pb.StreamCall(id=3, timeout=0.5, request=REQUEST), pb.StreamCall()],
        cancelled=cancelled,
        open=[pb.OpenRegion(region=1, bytes=2)],
        closed=closed,
    )
    asked = streaming.read_asked(message.SerializeToString())

    assert [(call.id, call.timeout, call.answer) for call in asked.calls] == [
        (3, 0.5, b""),
        (0, None, b""),
    ]
    assert frame.read(asked.calls[0].request) == PARTS
    assert (asked.cancelled, asked.closed) == (cancelled, closed)
    assert asked.opened == [message.open[0].SerializeToString()]


def test_what_was_joined_is_read_as_one_message():
    """Messages add up: that is how several calls go out together."""
    written = [
        *saying.call(1, None, PARTS),
        *saying.cancelled([4, 300]),
        *saying.closed(9),
        *saying.opened(pb.OpenRegion(region=5).SerializeToString()),
        *saying.call(2, 1.0, PARTS),
    ]
    asked = streaming.read_asked(b"".join(written))

    assert [call.id for call in asked.calls] == [1, 2]
    assert (asked.cancelled, asked.closed, len(asked.opened)) == ([4, 300], [9], 1)


def test_an_unpacked_number_is_read_as_well():
    """Each on its own, as other libraries may write a repeated number."""
    asked = streaming.read_asked(b"\x10\x05\x10\xac\x02\x20\x01")

    assert (asked.cancelled, asked.closed) == ([5, 300], [1])


def test_a_request_in_two_parts_is_one():
    """A field sent twice is merged, as protobuf has it."""
    twice = pb.StreamCall(request=pb.ComputeRequest(payloads=[b"x"])).SerializeToString() * 2
    message = b"\x0a" + frame.varint(len(twice)) + twice

    assert frame.read(streaming.read_asked(message).calls[0].request).payloads == [b"x", b"x"]


def test_answers_are_written_as_protobuf_has_them():
    """A response, a status and a region, joined to one message."""
    response = pb.ComputeResponse(header=pb.ResultHeader(metrics=["acc"]), payloads=[b"abc"])
    parts = Parts(response.header.SerializeToString(), [b"abc"], [])
    written = b"".join(
        [
            *saying.answer(300, parts),
            *saying.status(2, b"why"),
            *saying.region(pb.Region(region=1, name="n").SerializeToString()),
        ]
    )

    assert pb.ComputeStreamResponse.FromString(written) == pb.ComputeStreamResponse(
        answers=[
            pb.StreamAnswer(id=300, response=response),
            pb.StreamAnswer(id=2, status=b"why"),
        ],
        regions=[pb.Region(region=1, name="n")],
    )
    told = streaming.read_told(written)
    assert [(one.id, one.response is None, one.status) for one in told.answers] == [
        (300, False, b""),
        (2, True, b"why"),
    ]
    assert frame.read(told.answers[0].response) == parts
    assert len(told.regions) == 1


def test_an_empty_response_is_a_response():
    """Neither the lack of one, nor a status."""
    (answer,), *_ = streaming.read_told(b"\x0a\x02\x12\x00")

    assert answer.response == b""


WRONG = {
    "a field that ends too early": b"\x0a\x05abc",
    "a call that is no message": b"\x0a\x01\x0f",
    "a number that does not end": b"\x12\x02\x80\x80",
    "a number of over ten bytes": b"\x10" + b"\xff" * 10 + b"\x01",
    "too many calls": b"\x0a\x00" * (frame.MAX_FIELDS + 1),
    "too many fields of a call": b"\x0a\x84\x01" + b"\x08\x01" * (frame.MAX_FIELDS_WITHIN + 2),
    "too many numbers": b"\x12\x81\x20" + b"\x01" * (frame.MAX_FIELDS + 1),
}


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG)
def test_what_is_no_message_is_refused(message):
    """With an error that says so, and nothing else."""
    with pytest.raises(MessageError):
        streaming.read_asked(message)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(message):
    """Nothing a stranger sends does more."""
    for read in (streaming.read_asked, streaming.read_told):
        with contextlib.suppress(MessageError):
            read(message)


def test_a_bypass_is_asked_for():
    """As protobuf writes it; of several wishes the last counts."""
    wish = b"".join(saying.wish())

    assert wish == pb.ComputeStreamRequest(bypass=True).SerializeToString()
    assert streaming.read_asked(wish).bypass
    assert not streaming.read_asked(wish + b"\x28\x00").bypass


@pytest.mark.parametrize("name", ["", "lossserver-1"])
@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_bypass_is_named(name, port):
    """Each way that there is, as protobuf writes and reads it."""
    written = b"".join(saying.bypass(name, port))
    told = streaming.read_told(written)

    theirs = pb.ComputeStreamResponse(bypass=name, direct_port=port, takes_lists=True)
    assert written == theirs.SerializeToString()
    assert (told.bypass, told.direct_port, told.joined) == (name, port, False)


def test_a_direct_connection_is_named_and_joined():
    """As protobuf writes and reads it; of a name too long no more is kept than shows that it is."""
    named, joined = b"".join(saying.direct(b"n" * 16)), b"".join(saying.joined())

    assert named == pb.ComputeStreamRequest(direct=b"n" * 16).SerializeToString()
    assert streaming.read_asked(named).direct == b"n" * 16
    assert streaming.read_asked(b"").direct == b""
    assert len(streaming.read_asked(b"".join(saying.direct(bytes(1 << 20)))).direct) < 100
    assert joined == pb.ComputeStreamResponse(joined=True).SerializeToString()
    assert streaming.read_told(joined).joined
    assert not streaming.read_told(b"\x28\x00").joined
