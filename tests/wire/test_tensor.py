"""losswire.tensor: one table of element types, read both ways, and no trust in a size."""

import ml_dtypes
import numpy as np
import pytest

from losswire import tensor
from losswire.dtypes import DTYPES
from losswire.errors import MessageError, TensorError
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb

every_dtype = pytest.mark.parametrize("name", DTYPES)


def numpy_type(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def test_every_wire_dtype_is_in_the_table():
    """A dtype added to the contract and forgotten here would be refused. A bit is none of its own."""
    named = {value for value in pb.Dtype.values() if value} - {pb.DTYPE_BIT}

    assert {row.wire for row in DTYPES.values()} == named


@every_dtype
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)])
def test_an_array_survives_the_wire(name, shape):
    """Any dtype and shape comes back with the same bytes."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(numpy_type(name))
    packed = tensor.pack(array)
    read = tensor.read(tensor.describe(packed, 0), [bytes(packed.buffer)], "pred")
    back = tensor.unpack(read)

    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@every_dtype
def test_itemsize_is_numpys(name):
    """The table's sizes are those of the types."""
    assert DTYPES[name].itemsize == numpy_type(name).itemsize


def test_order_and_strides_do_not_travel():
    """Big-endian and transposed arrays arrive as their values."""
    array = np.arange(6, dtype=">f4").reshape(2, 3).T

    np.testing.assert_array_equal(tensor.unpack(tensor.pack(array)), array)


def test_a_contiguous_array_is_not_copied():
    """Packing gives a view: the copy is made once, by the join into the message."""
    array = np.zeros(8, np.float32)

    assert np.shares_memory(np.asarray(tensor.pack(array).buffer), array)


def test_bfloat16_without_its_package_says_what_to_install(monkeypatch):
    """NumPy alone cannot show bfloat16; the error names the cure."""
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    tensor.numpy_dtype.cache_clear()

    with pytest.raises(TensorError, match="pip install ml_dtypes"):
        tensor.unpack(TensorBytes("bfloat16", (1,), b"\0\0"))


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["a"]), np.array([{}])])
def test_what_does_not_travel_is_refused(array):
    """A complex, text or object array is an error that lists what travels."""
    with pytest.raises(TensorError, match="dtype must be one of bool, uint8"):
        tensor.pack(array)


@pytest.mark.parametrize(
    ("described", "error", "said"),
    [
        ({"dtype": 0, "shape": [2]}, TensorError, "dtype must be one of .*; given 0"),
        ({"dtype": 99, "shape": [2]}, TensorError, "dtype must be one of .*; given 99"),
        ({"dtype": 9, "shape": [-2, -1]}, TensorError, r"no extent .* given \[-2, -1\]"),
        ({"dtype": 9, "shape": [1] * 33}, TensorError, "rank must be at most 32; given 33"),
        ({"dtype": 9, "shape": [2**40, 2**40]}, TensorError, "must be 4835703278458516698824704 b"),
        (
            {"dtype": 9, "shape": [2**12, 0, 2**13]},
            TensorError,
            "must multiply to at most 16777216",
        ),
        ({"dtype": 9, "shape": [3]}, TensorError, "must be 12 bytes; given 8 bytes"),
        ({"dtype": 9, "shape": [1]}, TensorError, "must be 4 bytes; given 8 bytes"),
        ({"dtype": 9, "shape": [2], "payload": 7}, MessageError, "one of the 1 .* given 7"),
    ],
)
def test_a_hostile_description_is_refused(described, error, said):
    """Nothing is allocated for a size that a stranger made up."""
    with pytest.raises(error, match=f"^pred: .*{said}"):
        tensor.read(pb.Tensor(**described), [b"\0" * 8], "pred")
