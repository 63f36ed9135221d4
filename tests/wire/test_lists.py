"""losswire.lists: calls and answers that are said once, as any protobuf library has them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losswire import frame, lists, saying, streaming
from losswire.errors import MessageError
from losswire.frame import ALIGNMENT, LARGE, Parts
from losswire.lists import MAX_LISTS, TOGETHER
from losswire.runs import MOST, MOST_HEADER, MOST_PAYLOADS, Run
from losswire.v1 import loss_pb2 as pb

HEADER = pb.ComputeHeader(wrt=["pred"]).SerializeToString()
RESULT = pb.ResultHeader(metrics=["acc"]).SerializeToString()

SIZES = st.lists(st.sampled_from([0, 1, 4, 127, 128]), max_size=4)
COUNTS = st.integers(1, MOST)


def calls_of(count, sizes=(4,), header=HEADER):
    """So many calls with payloads of these lengths, no two alike."""
    return [
        Parts(header, [bytes([i, j]) * size for j, size in enumerate(sizes)], ())
        for i in range(count)
    ]


def columns_of(calls):
    """For each payload those of all calls, one after another."""
    return [b"".join(each) for each in zip(*(call.payloads for call in calls), strict=True)]


def said_by(run):
    """Id and parts of each call of a run."""
    return [(number, parts.header, [*map(bytes, parts.payloads)]) for number, parts in run.apart()]


@settings(deadline=None)
@given(COUNTS, SIZES, st.integers(0, 2**64 - MOST), st.none() | st.floats(allow_nan=False))
def test_a_list_of_calls_is_written_and_read_as_protobuf_has_it(count, sizes, first, timeout):
    """And each of its calls is what it was."""
    calls = calls_of(count, sizes)
    written = b"".join(saying.calls(first, timeout, calls))
    (theirs,) = pb.ComputeStreamRequest.FromString(written).lists
    (run,) = streaming.read_asked(written).calls

    assert (theirs.first, theirs.count) == (first, count)
    assert (theirs.timeout if theirs.HasField("timeout") else None) == timeout
    assert theirs.request.header == pb.ComputeHeader.FromString(HEADER)
    assert list(theirs.request.payloads) == columns_of(calls)
    assert (run.timeout, run.listed) == (timeout, True)
    assert said_by(run) == [(first + i, one.header, one.payloads) for i, one in enumerate(calls)]


@settings(deadline=None)
@given(COUNTS, SIZES, st.integers(0, 2**64 - MOST))
def test_a_list_of_answers_is_written_and_read_as_protobuf_has_it(count, sizes, first):
    """And each of them is what it would be by itself."""
    each = calls_of(count, sizes, RESULT)
    written = b"".join(saying.answer_list(first, count, RESULT, columns_of(each)))
    (theirs,) = pb.ComputeStreamResponse.FromString(written).lists
    told = streaming.read_told(written)

    assert (theirs.first, theirs.count) == (first, count)
    assert theirs.response.header == pb.ResultHeader.FromString(RESULT)
    assert list(theirs.response.payloads) == columns_of(each)
    assert [one.id for one in streaming.each(told.answers)] == [*range(first, first + count)]
    assert said_by(told.answers[0]) == [
        (first + i, RESULT, one.payloads) for i, one in enumerate(each)
    ]


def test_a_list_that_protobuf_wrote_is_read():
    """Beside calls that are none, in their order; a request in two parts is one."""
    twice = pb.CallList(first=5, count=2, request=pb.ComputeRequest(payloads=[b"ab"]))
    twice = twice.SerializeToString() + b"\x22\x04\x12\x02cd"
    message = pb.ComputeStreamRequest(calls=[pb.StreamCall(id=3)]).SerializeToString()
    message += b"\x3a" + frame.varint(len(twice)) + twice
    call, run = streaming.read_asked(message).calls

    assert call.id == 3
    assert said_by(run) == [(5, b"", [b"a", b"c"]), (6, b"", [b"b", b"d"])]


def listed(**fields):
    """A message with a list of these fields."""
    return pb.ComputeStreamRequest(lists=[pb.CallList(**fields)]).SerializeToString()


REQUEST = pb.ComputeRequest(payloads=[b"abcd"])
WRONG = {
    "no count": (listed(first=1, request=REQUEST), "from 1 to 64"),
    "too many": (listed(count=MOST + 1, request=REQUEST), "from 1 to 64"),
    "payloads of odd length": (listed(count=3, request=REQUEST), "a multiple of 3 bytes"),
    "ids that do not fit": (listed(first=2**64 - 1, count=2, request=REQUEST), "fit 64 bits"),
    "tensors elsewhere": (
        listed(count=1, request=pb.ComputeRequest(elsewhere=[pb.Elsewhere()])),
        "in its message",
    ),
    "all too many": (listed(count=MOST, request=pb.ComputeRequest()) * 65, "of 4096 calls"),
    "too many lists": (listed(count=1, request=REQUEST) * (MAX_LISTS + 1), "at most 256 lists"),
    "too many payloads": (
        listed(count=1, request=pb.ComputeRequest(payloads=[b"x"] * (MOST_PAYLOADS + 1))),
        "at most 16 payloads",
    ),
    "too many fields": (
        listed(count=1, request=pb.ComputeRequest(payloads=[b""] * 1000)),
        "at most 128 fields",
    ),
    "too long a header": (
        listed(
            count=1,
            request=pb.ComputeRequest(header=pb.ComputeHeader(wrt=["x" * MOST_HEADER])),
        ),
        "4096 bytes of header",
    ),
    "a request that is none": (b"\x3a\x05\x10\x01\x22\x01\x0f", "protobuf|whole"),
    "an end too early": (listed(count=1, request=REQUEST)[:-1], "whole"),
}


@pytest.mark.parametrize(("message", "rule"), WRONG.values(), ids=WRONG)
def test_a_list_that_is_none_is_refused(message, rule):
    """Before anything is made of the size that it says."""
    with pytest.raises(MessageError, match=rule):
        streaming.read_asked(message)


def test_calls_that_follow_one_another_and_are_alike_are_a_list():
    """Of one header and equal lengths; no more than are one job, and no more bytes than a message."""
    small, other = calls_of(MOST + 2), calls_of(3, header=b"")
    longer = calls_of(2, (5,))
    found = [*lists.alike([*small, *other, *longer, small[0]])]

    assert [len(some) for some in found] == [MOST, 2, 3, 2, 1]
    assert [one for some in found for one in some] == [*small, *other, *longer, small[0]]
    large = [Parts(HEADER, [bytes(LARGE - 100)], ())] * 10
    assert [len(some) for some in lists.alike(large)] == [8, 2]
    assert 8 * large[0].size < TOGETHER


@pytest.mark.parametrize(
    "parts",
    [
        Parts(HEADER, [], ()),
        Parts(HEADER, [b"abcd"], [pb.Elsewhere().SerializeToString()]),
        Parts(HEADER, [bytes(LARGE)], ()),
        Parts(HEADER, [b"x"] * (MOST_PAYLOADS + 1), ()),
        Parts(bytes(MOST_HEADER + 1), [b"x"], ()),
    ],
    ids=["no tensor", "a tensor elsewhere", "large", "many tensors", "a long header"],
)
def test_other_calls_are_no_list(parts):
    """However alike they are."""
    assert [len(some) for some in lists.alike([parts] * 3)] == [1, 1, 1]


def test_a_call_with_a_tensor_elsewhere_is_in_no_list():
    """Though it is otherwise like its neighbours."""
    one = Parts(HEADER, [b"abcd"], ())
    other = one._replace(elsewhere=[pb.Elsewhere().SerializeToString()])

    assert [len(some) for some in lists.alike([one, one, other, one])] == [2, 1, 1]


def test_no_call_is_no_list():
    """Nothing is written for nothing."""
    assert [*lists.alike([])] == []


@pytest.mark.parametrize("sizes", [(2500,), (500, 4), (1, 2048, 3, 2049)], ids=str)
def test_large_columns_are_aligned_in_their_message(sizes):
    """So they are computed with where they lie, and answers are arrays where they lie."""
    calls = calls_of(MOST, sizes)
    asked = b"".join(saying.calls(1, 1.0, calls))
    told = b"".join(saying.answer_list(1, len(calls), RESULT, columns_of(calls)))

    for message, read in ((asked, streaming.read_asked), (told, streaming.read_told)):
        (run,) = next(iter(read(message)))
        assert isinstance(run, Run)
        start = np.frombuffer(message, np.uint8).ctypes.data
        for column in run.payloads:
            assert column.size < LARGE or not (column.ctypes.data - start) % ALIGNMENT


def test_a_part_of_a_list_is_the_list_of_these_calls():
    """Ids follow one another still."""
    (run,) = streaming.read_asked(b"".join(saying.calls(10, None, calls_of(9)))).calls
    part = run.part(3, 7)

    assert (part.ids, part.listed) == (range(13, 17), True)
    assert said_by(part) == said_by(run)[3:7]
    assert part.size == 4 * (len(HEADER) + 8)
