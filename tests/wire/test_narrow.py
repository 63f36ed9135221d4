"""Narrow tensors from one end to the other: written, described, read and widened."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losswire import narrow, tensor, value
from losswire.dtypes import DTYPES, FLOATS, INTEGERS, NARROWER
from losswire.errors import LossError, MessageError, SpecError, TensorError
from losswire.narrow import SHORT, WIRES
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb
from losswire.value import Reader

DENSE = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)


def sent(given: TensorBytes):
    """What a receiver makes of it, and what was said of its energy."""
    payloads = []
    packed = value.pack(given, payloads)
    reader = Reader([bytes(one) for one in payloads], tensor.unpack)
    found = reader.read(pb.Value.FromString(packed.SerializeToString()), "pred")
    reader.finish()
    return found, reader.energy


def size_of(given: TensorBytes) -> int:
    return sum(map(len, tensor.buffers(given)))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (4, 0), (2, 3), (2, 3, 4)])
def test_a_float_comes_back_in_its_dtype_and_shape(wire, dtype, shape):
    """Whatever it was written in; the error is that of the type."""
    array = np.linspace(-2, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)
    found, _ = sent(narrow.rounded(tensor.pack(array), wire))

    assert found.dtype == array.dtype
    np.testing.assert_allclose(found, array, rtol=2.0**-8, atol=2 / 254 + 1e-6)


@pytest.mark.parametrize(("wire", "itemsize"), [("bfloat16", 2), ("float16", 2), ("int8", 1)])
def test_a_float_takes_as_many_bytes_as_its_wire_type(wire, itemsize):
    """And four a row for the scales of the scaled ones."""
    scales = 0 if wire == "bfloat16" else 4 * len(DENSE)

    assert size_of(narrow.rounded(tensor.pack(DENSE), wire)) == itemsize * DENSE.size + scales


@pytest.mark.parametrize("name", sorted(DTYPES.keys() - set(FLOATS)))
def test_what_is_no_wide_float_is_not_rounded(name):
    """Halves are short already, and an integer is an index."""
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    given = tensor.pack(np.ones(5, dtype))

    assert narrow.rounded(given, "int8") is given


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("most", [1, 100, 200, 30_000, 1 << 30, 1 << 40])
def test_integers_come_back_exactly(dtype, most):
    """In their own dtype, and in no more bytes than before."""
    held = np.iinfo(dtype)
    array = np.random.default_rng(0).integers(
        max(-most, held.min) if most > 1 else 0, min(most, held.max), SHORT, dtype, endpoint=True
    )
    given = tensor.pack(array)
    written = narrow.exact(given)
    found, _ = sent(written)

    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert size_of(written) <= size_of(given)


def test_class_indices_take_a_byte_each():
    """int64 is what trainers send; fewer than 256 classes are what they have."""
    labels = np.arange(SHORT) % 80

    assert size_of(narrow.exact(tensor.pack(labels))) == labels.size


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_zeros_and_ones_take_a_bit_each(dtype):
    """A mask, or targets of two classes."""
    mask = (np.arange(8 * SHORT + 3) % 3 == 0).astype(dtype)
    written = narrow.exact(tensor.pack(mask))
    found, _ = sent(written)

    assert size_of(written) == SHORT + 1
    assert found.dtype == mask.dtype
    np.testing.assert_array_equal(found, mask)


def test_what_is_short_is_left_alone():
    """To look at it would take longer than to send it."""
    given = tensor.pack(np.zeros(SHORT // 8 - 1, np.int64))

    assert narrow.exact(given) is given


@pytest.mark.parametrize("wire", ["", *WIRES])
def test_a_sparse_gradient_comes_back_dense(wire):
    """The largest elements are as they would be without the rest; the others are 0."""
    given = tensor.pack(DENSE)
    found, energy = sent(narrow.sparse(given, 0.05, wire))
    whole, _ = sent(narrow.rounded(given, wire) if wire else given)
    kept = np.abs(DENSE) >= np.sort(np.abs(DENSE), axis=None)[-15]

    np.testing.assert_array_equal(found, np.where(kept, whole, 0))
    assert energy["pred"] == pytest.approx(np.square(DENSE[kept]).sum() / np.square(DENSE).sum())


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
def test_other_floats_may_be_sparse_too(name):
    """In their own dtype."""
    array = DENSE.astype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    found, energy = sent(narrow.sparse(tensor.pack(array), 0.05))

    assert found.dtype == array.dtype
    assert np.count_nonzero(found) == 15
    assert 0 < energy["pred"] < 1


@pytest.mark.parametrize("share", [0.5, 1])
@pytest.mark.parametrize("wire", ["", *WIRES])
def test_what_would_not_get_shorter_is_sent_whole(share, wire):
    """Each index takes eight bytes; all of the energy is there then."""
    given = tensor.pack(DENSE)
    found, energy = sent(narrow.sparse(given, share, wire))
    whole, _ = sent(narrow.rounded(given, wire) if wire else given)

    np.testing.assert_array_equal(found, whole)
    assert energy == {"pred": 1.0}


def test_at_least_one_element_is_kept():
    """However small the share, and however large the gradient."""
    found, _ = sent(narrow.sparse(tensor.pack(DENSE), 1e-9))

    assert np.count_nonzero(found) == 1


def test_an_empty_gradient_has_nothing_to_keep():
    """It is sent as it is."""
    found, _ = sent(narrow.sparse(tensor.pack(np.zeros((0, 4), np.float32)), 0.1))

    assert found.shape == (0, 4)


@pytest.mark.parametrize("wire", ["float32", "bit", "int4", "", None, 3])
def test_an_unknown_wire_type_is_refused(wire):
    """With those that there are."""
    with pytest.raises(SpecError, match="wire_dtype: must be one of float16, bfloat16, int8"):
        narrow.check_wire(wire, "wire_dtype")


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan"), "all", None])
def test_a_share_that_is_none_is_refused(share):
    """Above 0, at most 1."""
    with pytest.raises(SpecError, match="grad_keep: must be above 0 and at most 1"):
        narrow.check_keep(share, "grad_keep")


def test_a_narrower_type_is_shorter():
    """The table allows nothing that would take more bytes, or as many."""
    for name, wires in NARROWER.items():
        sizes = [DTYPES[wire].itemsize for wire in wires if wire != "bit"]
        assert all(size < DTYPES[name].itemsize for size in sizes)


FLOAT32, FLOAT64, INT8, INT64, BIT = 9, 10, 3, 6, 11
PAYLOADS = [b"\0" * 8, b"\0" * 4, b"\0" * 16]


@pytest.mark.parametrize(
    ("described", "error", "said"),
    [
        ({"dtype": FLOAT32, "wire": FLOAT64, "shape": [1]}, TensorError, "wire type .* float64"),
        ({"dtype": FLOAT32, "wire": INT64, "shape": [1]}, TensorError, "wire type .* int64"),
        ({"dtype": FLOAT32, "wire": BIT, "shape": [64]}, TensorError, "wire type .* given bit"),
        ({"dtype": FLOAT32, "wire": 99, "shape": [1]}, TensorError, "wire type .* given 99"),
        ({"dtype": INT64, "wire": 7, "shape": [4]}, TensorError, "wire type .* given float16"),
        ({"dtype": 2, "wire": INT8, "shape": [8]}, TensorError, "wire type .* given int8"),
        ({"dtype": 8, "wire": INT8, "shape": [8], "scales": 1}, TensorError, "wire type .* int8"),
        ({"dtype": BIT, "shape": [64]}, TensorError, "dtype must be one of"),
        ({"dtype": 1, "wire": BIT, "shape": [65]}, TensorError, "as bit must be 9 bytes"),
        ({"dtype": 1, "wire": BIT, "shape": [56]}, TensorError, "as bit must be 7 bytes"),
        ({"dtype": 1, "wire": BIT, "shape": [2**40, 2**40]}, TensorError, "must be 1511157274"),
        ({"dtype": INT64, "wire": 2, "shape": [2**62, 4]}, TensorError, "must be 18446744073709"),
        ({"dtype": FLOAT32, "wire": INT8, "shape": [8]}, TensorError, "scales go with .* none"),
        (
            {"dtype": FLOAT32, "wire": INT8, "shape": [2, 4], "scales": 1},
            TensorError,
            r"scales of \[2, 4\] must be 8 bytes; given 4 bytes",
        ),
        (
            {"dtype": FLOAT32, "wire": INT8, "shape": [8], "scales": 2},
            TensorError,
            "must be 4 bytes; given 16 bytes",
        ),
        (
            {"dtype": FLOAT32, "wire": INT8, "shape": [2**62, 2**62], "scales": 1},
            TensorError,
            "must be 18446744073709551616 bytes",
        ),
        ({"dtype": FLOAT32, "shape": [2], "scales": 1}, TensorError, "scales go with a float"),
        ({"dtype": INT64, "wire": 3, "shape": [8], "scales": 1}, TensorError, "scales go with"),
        (
            {"dtype": FLOAT32, "wire": 8, "shape": [4], "scales": 1},
            TensorError,
            "scales go with .* bfloat16",
        ),
        (
            {"dtype": FLOAT32, "wire": INT8, "shape": [8], "scales": 3},
            MessageError,
            "one of the 3 .* given 3",
        ),
        (
            {"dtype": FLOAT32, "wire": INT8, "shape": [8], "scales": 0},
            TensorError,
            "must be 4 bytes",
        ),
        ({"dtype": INT64, "shape": [9], "indices": 2}, TensorError, "only floats .* int64"),
        ({"dtype": FLOAT32, "shape": [9], "indices": 7}, MessageError, "one of the 3 .* given 7"),
        ({"dtype": FLOAT32, "shape": [9], "indices": 1}, TensorError, "of 8 bytes each; given 4"),
        ({"dtype": FLOAT32, "shape": [1], "indices": 2}, TensorError, "at most 1, .* given 16"),
        (
            {"dtype": FLOAT64, "shape": [9], "indices": 2},
            TensorError,
            "as float64 must be 16 bytes; given 8",
        ),
        ({"dtype": FLOAT32, "shape": [2], "indices": 2, "payload": 1}, TensorError, "be 8 bytes"),
    ],
)
def test_a_hostile_description_is_refused(described, error, said):
    """Lengths, types and numbers are checked before any of the bytes are looked at."""
    with pytest.raises(error, match=f"^pred: .*{said}"):
        tensor.read(pb.Tensor(**described), PAYLOADS, "pred")


@pytest.mark.parametrize(
    ("described", "lengths"),
    [
        ({"dtype": FLOAT32, "wire": INT8, "shape": [1, 4], "scales": 0}, [4]),
        ({"dtype": FLOAT64, "shape": [9], "indices": 0}, [8]),
        ({"dtype": FLOAT32, "wire": INT8, "shape": [2, 4], "scales": 1, "indices": 1}, [1, 8]),
    ],
)
def test_each_payload_belongs_to_one_tensor(described, lengths):
    """Scales and indices count, too."""
    reader = Reader([b"\0" * length for length in lengths], tensor.unpack)

    with pytest.raises(MessageError, match="pred: each payload belongs to one tensor"):
        reader.read(pb.Value(tensor_value=pb.Tensor(**described)), "pred")


def test_indices_that_fall_are_refused_by_whoever_reads_them():
    """Their lengths are right, so that only a look at them shows it."""
    values, indices = np.ones(2, np.float32), np.array([3, 1])
    described = pb.Tensor(dtype=FLOAT32, shape=[4], payload=0, indices=1)
    reader = Reader([values.tobytes(), indices.tobytes()], tensor.unpack)

    with pytest.raises(TensorError, match="must ascend"):
        reader.read(pb.Value(tensor_value=described), "pred")


def test_float16_may_be_without_scales():
    """A client that is not ours may have no need of them."""
    halves = np.array([1.5, -2], np.float16)
    described = pb.Tensor(dtype=FLOAT32, wire=7, shape=[2])

    found = tensor.unpack(tensor.read(described, [halves.tobytes()], "pred"))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -2]


described_tensors = st.builds(
    pb.Tensor,
    dtype=st.integers(0, 12),
    wire=st.integers(0, 12),
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, -1, 2**62]), max_size=3),
    payload=st.integers(0, 3),
    scales=st.none() | st.integers(0, 3),
    indices=st.none() | st.integers(0, 3),
    energy=st.floats(),
)
contents = st.sampled_from([0, 1, 2, 4, 8, 12, 16, 32]).flatmap(
    lambda size: st.binary(min_size=size, max_size=size)
)


@settings(deadline=None)
@given(described_tensors, st.lists(contents, max_size=3))
def test_whatever_is_described_is_a_tensor_or_an_error(described, payloads):
    """Of the described dtype and shape, over bytes that were sent; or an error of ours, never another."""
    try:
        read = tensor.read(described, payloads, "pred")
        found = tensor.unpack(read)
    except LossError:
        return

    assert found.shape == tuple(described.shape)
    assert found.dtype == tensor.numpy_dtype(read.dtype)
