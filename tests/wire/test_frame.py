"""losswire.frame: cut and joined by hand, and yet plain protobuf."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire import frame
from losswire.errors import MessageError
from losswire.v1 import loss_pb2 as pb

payload_lists = st.lists(st.binary(max_size=300), max_size=5)


def header(config: str) -> bytes:
    return pb.ComputeHeader(config=pb.Value(string_value=config)).SerializeToString()


@given(st.text(max_size=300), payload_lists)
def test_protobuf_reads_what_we_write(config, payloads):
    """Our message is, to the byte, the one that the protobuf library would have written."""
    ours = frame.write(header(config), payloads)
    theirs = pb.ComputeRequest(payloads=payloads)
    theirs.header.config.string_value = config

    assert ours == theirs.SerializeToString()


@given(st.text(max_size=300), payload_lists)
def test_we_read_what_protobuf_writes(config, payloads):
    """Any other client's message is read, its payloads as views."""
    theirs = pb.ComputeRequest(payloads=payloads)
    theirs.header.config.string_value = config
    head, views, _ = frame.read(theirs.SerializeToString())

    assert pb.ComputeHeader.FromString(head) == theirs.header
    assert views == payloads


def test_fields_of_a_later_version_are_passed_over():
    """Varint, 8-byte, length-delimited and 4-byte fields that we do not know do no harm."""
    later = b"\x18\x96\x01" + b"\x21" + b"\0" * 8 + b"\x2a\x02ab" + b"\x35" + b"\0" * 4
    message = later + frame.write(b"", [b"abc"]) + later

    assert frame.read(message) == (b"", [b"abc"], [])


def test_a_second_header_is_merged():
    """As protobuf has it: the parts of a message field that comes twice are put together."""
    message = frame.write(header("a"), []) + frame.write(
        pb.ComputeHeader(wrt=["pred"]).SerializeToString(), []
    )
    parsed = pb.ComputeHeader.FromString(frame.read(message).header)

    assert parsed == pb.ComputeRequest.FromString(message).header


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x12\xff",
        b"\x80" * 11,
        b"\x0b",
        b"\x0c",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
    ids=repr,
)
def test_cut_or_foreign_bytes_are_refused(message):
    """Bytes that end early, run over, or use groups are a MessageError and nothing else."""
    with pytest.raises(MessageError):
        frame.read(message)


@pytest.mark.parametrize("field", [b"\x12\x00", b"\x0a\x00", b"\x18\x00"], ids=repr)
def test_too_many_fields_are_refused(field):
    """Millions of empty payloads, headers or unknown fields end at the first of them too many."""
    with pytest.raises(MessageError, match="at most 4096 fields"):
        frame.read(field * 100_000)


def test_a_header_is_not_a_place_for_arrays():
    """Parsed, a header is many times its size; so it is bounded before."""
    with pytest.raises(MessageError, match="header: must have at most 1048576 bytes"):
        frame.read(frame.write(b"\0" * (2**20 + 1), []))


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(noise):
    """Whatever comes, reading ends in a result or a MessageError."""
    try:
        views = frame.read(noise).payloads
    except MessageError:
        return

    assert sum(len(view) for view in views) <= len(noise)
