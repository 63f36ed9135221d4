"""losswire.frame and losswire.saying: large payloads lie aligned in plain protobuf."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from losswire import frame, saying, streaming
from losswire.frame import ALIGNMENT, LARGE, Parts
from losswire.v1 import loss_pb2 as pb

#: Payloads that are large, nearly, and just; and small ones, which move those behind them. All of them
#: are below 2 MiB, where a length becomes a byte longer.
SIZES = st.lists(
    st.integers(0, 300) | st.integers(LARGE - 9, LARGE + 9) | st.integers(LARGE, 2 * LARGE),
    max_size=3,
)
NAMES = st.text(st.characters(codec="ascii"), max_size=300)


def header_of(name):
    """A header of about so many bytes."""
    return pb.ComputeHeader(config=pb.Value(string_value=name)).SerializeToString()


def payloads_of(sizes):
    """Payloads of these lengths, no two alike."""
    return [bytes([place + 1]) * size for place, size in enumerate(sizes)]


def places_in(message, payloads):
    """Where payloads that were read from a message lie in it."""
    start = np.frombuffer(message, np.uint8).ctypes.data
    return [np.frombuffer(one, np.uint8).ctypes.data - start for one in payloads]


def assert_large_are_aligned(message, payloads):
    """Those of LARGE bytes and more lie at multiples of ALIGNMENT in the message."""
    places = places_in(message, payloads)
    large = [at for at, one in zip(places, payloads, strict=True) if len(one) >= LARGE]

    assert not any(at % ALIGNMENT for at in large)


@settings(deadline=None)
@example("", [LARGE, 1, LARGE + 1], 1)
@example("x", [LARGE - 1], 0)
@given(NAMES, SIZES, st.integers(0, 2))
def test_large_payloads_are_aligned(name, sizes, elsewhere):
    """Whatever is before them; and protobuf reads the same message as without that."""
    payloads = payloads_of(sizes)
    message = b"".join(frame.laid_out(header_of(name), payloads, [b""] * elsewhere, at=0))
    theirs = pb.ComputeRequest(payloads=payloads, elsewhere=[pb.Elsewhere()] * elsewhere)
    theirs.header.ParseFromString(header_of(name))
    ours = frame.read(message)

    assert pb.ComputeRequest.FromString(message) == theirs
    assert ours == (header_of(name), payloads, [b""] * elsewhere)
    assert_large_are_aligned(message, ours.payloads)


@settings(deadline=None)
@given(NAMES, SIZES, st.integers(0, 50))
def test_a_message_within_another_counts_from_where_that_begins(name, sizes, at):
    """What stands before it is said, and its payloads are aligned with that."""
    message = bytes(at) + b"".join(frame.laid_out(header_of(name), payloads_of(sizes), at=at))

    assert_large_are_aligned(message, frame.read(memoryview(message)[at:]).payloads)


@settings(deadline=None)
@given(NAMES, SIZES)
def test_a_unary_call_is_not_aligned(name, sizes):
    """It is copied in any case: the message is, to the byte, the one that protobuf writes."""
    payloads = payloads_of(sizes)
    theirs = pb.ComputeRequest(payloads=payloads)
    theirs.header.config.string_value = name

    assert frame.write(header_of(name), payloads) == theirs.SerializeToString()


@settings(deadline=None)
@example(1, None, "", [LARGE], b"")
@given(
    st.integers(0, 2**64 - 1),
    st.none() | st.floats(allow_nan=False),
    NAMES,
    SIZES,
    st.sampled_from([b"", pb.Span(region=7, offset=64, bytes=3).SerializeToString()]),
)
def test_large_payloads_of_a_call_are_aligned_in_its_message(number, timeout, name, sizes, span):
    """Of a stream, whatever the numbers before it; and protobuf reads the same call."""
    parts = Parts(header_of(name), payloads_of(sizes), [])
    message = b"".join(saying.call(number, timeout, parts, span))
    (call,) = streaming.read_asked(message).calls
    (theirs,) = pb.ComputeStreamRequest.FromString(message).calls

    assert (theirs.id, theirs.HasField("timeout"), theirs.timeout) == (
        number,
        timeout is not None,
        timeout or 0.0,
    )
    assert theirs.request.header == pb.ComputeHeader.FromString(parts.header)
    assert theirs.request.payloads == parts.payloads
    assert theirs.HasField("answer") == bool(span)
    assert frame.read(call.request) == parts
    assert_large_are_aligned(message, frame.read(call.request).payloads)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), NAMES, SIZES)
def test_large_payloads_of_an_answer_are_aligned_in_its_message(number, metric, sizes):
    """So a client that receives them has arrays where they lie."""
    header = pb.ResultHeader(metrics=[metric])
    payloads = payloads_of(sizes)
    message = b"".join(saying.answer(number, Parts(header.SerializeToString(), payloads)))
    (answer,) = streaming.read_told(message).answers
    (theirs,) = pb.ComputeStreamResponse.FromString(message).answers

    assert (theirs.id, theirs.response.header) == (number, header)
    assert theirs.response.payloads == payloads
    assert_large_are_aligned(message, frame.read(answer.response).payloads)


@pytest.mark.parametrize("short", range(40))
def test_where_a_length_becomes_a_byte_longer_the_call_is_the_same(short):
    """Of one in a thousand the padding moves what it was counted from: then it is only not aligned."""
    parts = Parts(header_of("x"), payloads_of([(2 << 20) - short]), [])
    message = b"".join(saying.call(1, 1.0, parts))

    assert frame.read(streaming.read_asked(message).calls[0].request) == parts
    assert pb.ComputeStreamRequest.FromString(message).calls[0].request.payloads == parts.payloads
