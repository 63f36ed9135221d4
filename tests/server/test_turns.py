"""lossserver.turns: messages of a stream that are taken together."""

from hypothesis import given
from hypothesis import strategies as st

from lossserver.turns import joined
from losswire.v1 import loss_pb2 as pb

CALLS = st.lists(
    st.one_of(
        st.builds(
            lambda i: pb.ComputeStreamRequest(calls=[pb.StreamCall(id=i)]), st.integers(0, 300)
        ),
        st.just(pb.ComputeStreamRequest(calls=[pb.StreamCall(id=1)] * 2)),
        st.just(pb.ComputeStreamRequest(cancelled=[1], bypass=True)),
        st.just(pb.ComputeStreamRequest()),
    ),
    max_size=8,
)


@given(CALLS, st.integers(0, 20))
def test_joined_messages_say_the_same(messages, most):
    """In their order; only those of one call each are joined, and to no more bytes than said."""
    given_ = [message.SerializeToString() for message in messages]
    found = list(joined(given_, most))
    parsed = [pb.ComputeStreamRequest.FromString(one) for one in found]

    assert b"".join(found) == b"".join(given_)
    assert all(len(one) <= max(most, len(given_[0])) or one in given_ for one in found)
    for one, said in zip(found, parsed, strict=True):
        assert one in given_ or not (said.cancelled or said.bypass)


def test_calls_that_come_one_by_one_are_joined():
    """Up to so many as one job may have."""
    one = pb.ComputeStreamRequest(calls=[pb.StreamCall(id=1)]).SerializeToString()
    found = list(joined([one] * 100, 1 << 20))

    assert found == [one * 64, one * 36]
    assert list(joined([one] * 3, 2 * len(one))) == [one * 2, one]


def test_a_lone_message_is_not_copied():
    """It may be large, and is computed with where it lies."""
    one = pb.ComputeStreamRequest(calls=[pb.StreamCall(id=1)]).SerializeToString()
    cancelled = pb.ComputeStreamRequest(cancelled=[1]).SerializeToString()
    messages = [memoryview(bytearray(m)) for m in (one, cancelled, one)]

    assert all(a is b for a, b in zip(joined(messages, 1 << 20), messages, strict=True))
