"""losswire.direct: what goes over a direct connection, and a name as any protobuf library has it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire import direct, frame
from losswire.direct import END, GREETING, MAGIC, NAME
from losswire.errors import MessageError
from losswire.v1 import loss_pb2 as pb

NUMBERS = st.integers(0, 2**64 - 1)
NAMES = st.binary(min_size=NAME, max_size=NAME)


def test_the_format_stays_as_it_is():
    """These bytes only a deliberate change may alter."""
    assert MAGIC == b"losswire.direct1"
    assert (NAME, GREETING, direct.HEAD, END) == (16, 32, 16, 2**64 - 1)
    assert direct.head(3, 0x0102) == b"\x03" + bytes(7) + b"\x02\x01" + bytes(6)
    assert direct.head(END, 0) == b"\xff" * 8 + bytes(8)
    assert direct.named(b"0123456789abcdef") == b"\x22\x100123456789abcdef"


@given(NUMBERS, NUMBERS)
def test_a_head_is_read_as_it_was_written(payload, length):
    """All numbers, and always of the same bytes."""
    written = direct.head(payload, length)

    assert len(written) == direct.HEAD
    assert direct.read_head(bytearray(written)) == (payload, length)


@given(NAMES)
def test_a_greeting_has_the_name(name):
    """Behind what says that it is one."""
    assert direct.greeted(MAGIC + name) == name


NO_GREETING = {
    "nothing": b"",
    "cut short": MAGIC + bytes(NAME - 1),
    "too long": MAGIC + bytes(NAME + 1),
    "of a later version": b"losswire.direct2" + bytes(NAME),
    "of another service": b"HTTP/1.1 400 Bad Request\r\nServer:",
    "of another service, and as long": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+d",
}


@pytest.mark.parametrize("greeting", NO_GREETING.values(), ids=NO_GREETING)
def test_another_service_is_not_taken_for_ours(greeting):
    """Whatever it says first."""
    with pytest.raises(MessageError, match="must begin with its greeting"):
        direct.greeted(greeting)


@given(NAMES, st.text(max_size=200), st.integers(0, 3))
def test_a_name_is_where_protobuf_has_it(name, config, elsewhere):
    """Appended to a call's first message, of which nothing else changes; and read again."""
    theirs = pb.ComputeLargeRequest(
        header=pb.ComputeHeader(config=pb.Value(string_value=config)),
        elsewhere=[pb.Elsewhere()] * elsewhere,
    )
    header = theirs.header.SerializeToString()
    ours = frame.write(header, [], [b""] * elsewhere) + direct.named(name)
    theirs.direct = name

    assert pb.ComputeLargeRequest.FromString(ours) == theirs
    assert direct.name_in(ours) == direct.name_in(theirs.SerializeToString()) == name
    assert frame.read(ours) == (header, [], [b""] * elsewhere)


def test_a_call_need_not_have_a_name():
    """Then its pieces come by gRPC, as they always did."""
    header = pb.ComputeLargeRequest(header=pb.ComputeHeader(config=pb.Value(string_value="x")))

    assert direct.named(b"") == b""
    assert direct.name_in(header.SerializeToString()) == b""
    assert direct.name_in(b"") == b""


@given(NAMES, NAMES)
def test_of_two_names_the_last_counts(first, last):
    """As protobuf has it of a field sent twice."""
    message = direct.named(first) + direct.named(last)

    assert direct.name_in(message) == pb.ComputeLargeRequest.FromString(message).direct == last


@pytest.mark.parametrize("length", [1, NAME - 1, NAME + 1, 1 << 20])
def test_a_name_of_another_length_is_refused(length):
    """And of a long one no more is read than shows that it is."""
    with pytest.raises(MessageError, match=f"must have 16 bytes; given {min(length, 17)} or more"):
        direct.name_in(direct.named(bytes(length)))


def test_a_number_is_no_name():
    """The same field of another wire type is an unknown one."""
    assert direct.name_in(b"\x20\x07") == b""


@given(st.binary(max_size=40))
def test_any_bytes_have_a_name_or_none_or_are_refused(message):
    """Nothing that a stranger sends does more."""
    with suppress(MessageError):
        assert len(direct.name_in(message)) in (0, NAME)
