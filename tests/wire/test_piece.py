"""losswire.piece and losswire.layout: pieces as any protobuf library has them, and their order."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossclient.call import encode_call
from losswire import piece
from losswire.errors import MessageError, MessageTooLargeError
from losswire.frame import varint
from losswire.layout import layout
from losswire.v1 import loss_pb2 as pb


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**48), st.binary(min_size=1, max_size=300))
def test_a_piece_is_what_protobuf_reads(payload, offset, content):
    """And begins at a multiple of 8 in its message."""
    message = piece.write(payload, offset, content)
    theirs = pb.ComputeLargeRequest.FromString(message).piece
    ours = piece.read(message)

    assert (theirs.payload, theirs.offset, theirs.content) == (payload, offset, content)
    assert (ours.payload, ours.offset, bytes(ours.content)) == (payload, offset, content)
    assert (len(message) - len(content)) % 8 == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**48), st.binary(max_size=300))
def test_a_piece_of_protobuf_is_read(payload, offset, content):
    """As any client writes it."""
    sent = pb.Piece(payload=payload, offset=offset, content=content)
    found = piece.read(pb.ComputeLargeRequest(piece=sent).SerializeToString())

    assert (found.payload, found.offset, bytes(found.content)) == (payload, offset, content)


@given(st.binary(max_size=40))
def test_anything_else_is_refused(message):
    """No bytes raise anything but a MessageError."""
    with suppress(MessageError):
        piece.read(message)


def test_pieces_are_neither_many_nor_huge():
    """A payload has about sixteen, of 1 MiB at least; or below 4 MiB, which every gRPC peer takes."""
    assert piece.length(1000) == piece.length(10 << 20) == 1 << 20
    assert piece.length(32 << 20) == 2 << 20
    assert piece.length(1 << 40) == 8 << 20
    assert piece.length(1 << 40, piece.TAKEN) == piece.TAKEN < (4 << 20) - 100


def header_of(inputs, **more):
    """The header of a call."""
    return pb.ComputeHeader.FromString(encode_call({"type": "L1Loss"}, inputs, **more).header)


def test_pred_comes_last():
    """Whatever its number, and also where it is a tree."""
    pred = {"a": np.zeros((4, 3), np.float32), "b": [np.zeros(2, np.float16)]}
    found = layout(header_of({"pred": pred, "target": np.zeros((5, 2))}, state={"s": np.ones(1)}))

    assert found.pred == [0, 1]
    assert found.others == [2, 3]
    assert found.sizes == [48, 4, 80, 8]
    assert found.rows == [12, 2, 16, 8]
    assert found.bytes(found.pred) == 52


def test_narrow_tensors_are_as_long_as_they_are_written():
    """Bits and bytes, and scales of their rows."""
    header = header_of({"pred": np.zeros((4, 3), np.float32), "target": np.zeros(9, bool)})
    pred = header.inputs["pred"].tensor_value
    pred.wire, pred.scales = pb.DTYPE_INT8, 2
    header.inputs["target"].tensor_value.wire = pb.DTYPE_BIT
    found = layout(header)

    assert found.sizes == [12, 2, 16]
    assert (found.pred, found.others) == ([0, 2], [1])


def test_pieces_are_whole_rows_where_a_row_fits():
    """So that they are computed where they lie."""
    found = layout(
        header_of({"pred": np.zeros((9, 300), np.float32), "target": np.zeros((2, 400))})
    )

    assert found.piece(0, 5000) == 4800
    assert found.piece(1, 1000) == 1000


def test_what_has_no_known_layout_is_refused():
    """A sparse tensor, or numbers with gaps."""
    header = header_of({"pred": np.zeros(3, np.float32)})
    header.inputs["pred"].tensor_value.payload = 1

    with pytest.raises(MessageError, match="numbered from 0 on"):
        layout(header)

    header.inputs["pred"].tensor_value.indices = 2

    with pytest.raises(MessageError, match="sparse"):
        layout(header)


def test_payloads_that_are_elsewhere_are_not_sent():
    """They are numbered after those that are."""
    header = header_of({"pred": np.zeros(3, np.float32), "target": np.zeros(3, np.float32)})
    found = layout(header, elsewhere=1)

    assert (found.sizes, found.pred, found.others) == ([12], [0], [])


def test_a_piece_has_few_fields():
    """One of millions, each of two bytes, would keep the server busy for seconds."""
    inner = b"\x20\x00" * 1000
    message = b"\x12" + varint(len(inner)) + inner

    with pytest.raises(MessageError, match="at most 64 fields"):
        piece.read(message)


@pytest.mark.parametrize("dtype", [pb.DTYPE_FLOAT32, pb.DTYPE_INT64])
def test_a_tensor_is_no_larger_than_can_be_counted(dtype):
    """Whatever a header says of it, as it is written and as it is computed with."""
    header = header_of({"pred": np.zeros((2, 2), np.float32)})
    described = header.inputs["pred"].tensor_value
    described.dtype, described.wire = dtype, pb.DTYPE_BIT if dtype == pb.DTYPE_INT64 else 0
    described.shape[:] = [2**40, 2**40]

    with pytest.raises(MessageTooLargeError, match="a tensor must have at most"):
        layout(header)


def test_extents_that_are_too_many_are_not_multiplied():
    """The product of thousands would have millions of digits; the rank is refused later."""
    header = header_of({"pred": np.zeros((2, 2), np.float32)})
    header.inputs["pred"].tensor_value.shape[:] = [1] * 32 + [2**62] * 20_000

    assert layout(header).sizes == [4]
