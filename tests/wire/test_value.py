"""losswire.value: plain Python values ⇄ Value."""

import contextlib

import numpy as np
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from losswire import tensor, value
from losswire.errors import LossError, MessageError, SpecError, TensorError
from losswire.v1 import loss_pb2 as pb
from losswire.value import MAX_DEPTH, Reader

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(trees)
def test_a_value_survives_the_wire(tree):
    """Any config comes back as it was, and an int does not become a float."""
    back = Reader([], tensor.unpack).read(value.pack(tree, []), "config")

    assert back == tree
    assert repr(back) == repr(tree) or isinstance(tree, dict | list)


def test_a_tree_of_tensors_survives_the_wire():
    """Tensors nested in lists and dicts come back in their places."""
    tree = {"cls": [np.zeros((2, 3)), np.ones(1, np.int64)], "box": {"a": np.arange(3)}, "n": None}
    payloads = []
    packed = value.pack(tree, payloads)
    reader = Reader(payloads, tensor.unpack)
    back = reader.read(packed, "pred")
    reader.finish()

    np.testing.assert_equal(back, tree)


def test_arrays_of_other_frameworks_travel():
    """What NumPy can read, as it can JAX's and TensorFlow's arrays, is sent; what not, is said."""
    back = Reader(payloads := [], tensor.unpack)
    packed = value.pack({"pred": torch.arange(3.0)}, payloads)

    np.testing.assert_equal(back.read(packed, "x"), {"pred": np.arange(3, dtype=np.float32)})
    with pytest.raises(TensorError, match=r"pred: must be an array that NumPy can read .*detach"):
        value.pack(torch.ones(2, requires_grad=True), [], "pred")


def test_numpy_numbers_are_numbers():
    """A config computed with NumPy is a config."""
    packed = value.pack({"gamma": np.float32(2), "n": np.int64(3), "on": np.bool_(True)}, [])

    assert Reader([], tensor.unpack).read(packed, "c") == {"gamma": 2.0, "n": 3, "on": True}


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": {1: 2}}, "config.a: keys must be texts; given 1"),
        ({"a": [object()]}, r"config.a\[0\]: must be None, bool, .*; given object"),
        ({"a": 2**63}, "config.a: an integer must fit 64 bits"),
    ],
)
def test_what_does_not_travel_is_refused(tree, said):
    """The error names the place in the tree."""
    with pytest.raises(SpecError, match=said):
        value.pack(tree, [], "config")


def nested(depth, inner):
    for _ in range(depth):
        inner = [inner]
    return inner


def test_depth_is_bounded_on_both_ends():
    """A tree nested too deep is refused when written, and when a stranger wrote it."""
    value.pack(nested(MAX_DEPTH, 1), [])
    with pytest.raises(SpecError, match="nested at most 16 deep"):
        value.pack(nested(MAX_DEPTH + 1, 1), [])
    message = pb.Value(int_value=1)
    for _ in range(MAX_DEPTH + 1):
        message = pb.Value(list_value=pb.ValueList(items=[message]))

    with pytest.raises(SpecError, match="nested at most 16 deep"):
        Reader([], tensor.unpack).read(message, "config")


def test_the_number_of_values_is_bounded():
    """A message of many tiny values is refused before they become Python objects by the million."""
    many = pb.Value(list_value=pb.ValueList(items=[pb.Value(bool_value=True)] * 70000))

    with pytest.raises(SpecError, match="at most 65536 values"):
        Reader([], tensor.unpack).read(many, "config")


def test_a_value_of_no_kind_is_refused():
    """A kind that a later version adds is not taken for None."""
    with pytest.raises(SpecError, match="a kind this version knows"):
        Reader([], tensor.unpack).read(pb.Value(), "config")


def test_a_payload_belongs_to_one_tensor():
    """Two tensors cannot share a payload, and none may be left over."""
    one = value.pack(np.zeros(2), payloads := [])
    reader = Reader([*payloads, b""], tensor.unpack)
    reader.read(one, "pred")

    with pytest.raises(MessageError, match="target: each payload belongs to one tensor"):
        reader.read(one, "target")
    with pytest.raises(MessageError, match="1 are; given 2 payloads"):
        reader.finish()


@given(st.binary(max_size=64))
def test_random_bytes_end_in_an_error_of_ours(noise):
    """No bytes that parse as a Value raise anything but a LossError."""
    try:
        message = pb.Value.FromString(noise)
    except DecodeError:
        return
    with contextlib.suppress(LossError):
        Reader([b"1234"], tensor.unpack).read(message, "config")
