"""losswire.bypass: messages of bytes that come as they like."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire.bypass import FRONT, LONGEST, Incoming, framed, unsent
from losswire.errors import MessageTooLargeError

MESSAGES = st.lists(
    st.builds(
        lambda size, byte: bytes([byte]) * size,
        st.sampled_from(
            [0, 1, 7, 8, 9, 1000, FRONT - 9, FRONT - 8, FRONT - 7, FRONT + 1, 3 * FRONT]
        ),
        st.integers(0, 255),
    ),
    max_size=6,
)


def received(content, sizes):
    """The messages in bytes that come in pieces of at most these sizes, over and over."""
    incoming = Incoming()
    found, at, turn = [], 0, 0
    while at < len(content):
        room = incoming.room()
        size = min(len(room), sizes[turn % len(sizes)], len(content) - at)
        assert size > 0
        room[:size] = content[at : at + size]
        found += map(bytes, incoming.came(size))
        at, turn = at + size, turn + 1
    return found


@given(MESSAGES, st.lists(st.sampled_from([1, 5, 1000, FRONT // 2, 2 * FRONT]), min_size=1))
def test_messages_are_what_was_sent_however_they_come(messages, sizes):
    """Many at once, one in many pieces, empty ones, and such that just fit."""
    content = b"".join(b"".join(framed([message])) for message in messages)
    if len(content) > 4000:
        sizes = [max(size, 1000) for size in sizes]  # byte by byte would take long

    assert received(content, sizes) == messages


def test_what_was_received_stays_as_it_is():
    """What comes after it lies elsewhere."""
    incoming = Incoming()
    found = []
    for byte in b"abc":
        for size in (10, FRONT + 10):
            content = b"".join(framed([bytes([byte]) * size]))
            while content:
                room = incoming.room()[: len(content)]
                room[:] = content[: len(room)]
                content = content[len(room) :]
                found += incoming.came(len(room))

    assert [(bytes(one[:1]), len(one)) for one in found] == [
        (bytes([byte]), size) for byte in b"abc" for size in (10, FRONT + 10)
    ]
    assert all(len(set(bytes(one))) == 1 for one in found)


@pytest.mark.parametrize("length", [LONGEST + 1, 2**63, 2**64 - 1])
def test_a_length_above_the_longest_is_refused(length):
    """When it is there, and nothing of the message is."""
    incoming = Incoming()
    incoming.room()[:8] = struct.pack("<Q", length)
    with pytest.raises(MessageTooLargeError, match=rf"at most {LONGEST} bytes; given {length}"):
        incoming.came(8)


def test_the_longest_is_received():
    """Exactly so many bytes."""
    (found,) = received(b"".join(framed([bytes(LONGEST)])), [1 << 20])

    assert len(found) == LONGEST


@given(st.lists(st.binary(max_size=5), max_size=6), st.data())
def test_what_is_left_follows_what_was_sent(buffers, data):
    """However far the line took it, and in buffers that hold something."""
    whole = b"".join(buffers)
    count = data.draw(st.integers(0, len(whole)))
    left = unsent(buffers, count)

    assert b"".join(left) == whole[count:]
    assert not left or len(left[0])


def test_a_message_is_its_length_and_what_it_is_joined_of():
    """Eight bytes, little-endian; the buffers are not copied."""
    buffers = [b"ab", memoryview(b"c")]
    length, *rest = framed(buffers)

    assert length == b"\x03" + bytes(7)
    assert all(one is other for one, other in zip(rest, buffers, strict=True))
