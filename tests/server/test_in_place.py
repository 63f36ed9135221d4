"""lossserver.source: tensors are computed with where their message lies, and never where another writes."""

import mmap

import numpy as np
import pytest
import torch

import lossclient
from lossclient.stream import Stream
from lossserver.source import Source
from losswire.frame import ALIGNMENT, LARGE

FLOATS = Source("float32", (4,), 0)


def received(size=16, at=0):
    """Memory of a message that came over a bypass, from so many bytes after its beginning."""
    whole = np.arange(size + at, dtype=np.uint8)
    assert not whole.ctypes.data % ALIGNMENT
    return whole.data[at:]


def region(size=16):
    """Memory that a client shares, and can still write to."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:size]


#: Where a payload may lie, and whether it is computed with there, without being lent.
PLACES = {
    "a message": (received(), True),
    "within a message": (received(at=2 * ALIGNMENT), True),
    "off by four": (received(at=4), False),
    "off by one": (received(at=1), False),
    "a message of gRPC": (memoryview(bytes(16)), False),
    "bytes": (bytes(16), False),
    "a message that is read-only": (received().toreadonly(), False),
    "a buffer that is no array": (memoryview(bytearray(16)), False),
    "a region": (region(), False),
}


@pytest.mark.parametrize(("payload", "own"), PLACES.values(), ids=PLACES)
def test_only_what_nobody_else_has_is_read_where_it_lies(payload, own):
    """And aligned; all else is copied. What is read is the same."""
    tensor = FLOATS.tensor([payload])
    expected = np.frombuffer(bytes(payload), np.float32)

    assert FLOATS.reads_in_place([payload]) == own
    assert (tensor.data_ptr() == np.frombuffer(payload, np.uint8).ctypes.data) == own
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_what_is_lent_is_read_where_it_lies():
    """Also in a region; what can not be written torch can not have."""
    lent = FLOATS._replace(lent=True)

    assert lent.reads_in_place([region()])
    assert lent.reads_in_place([memoryview(bytearray(16))])
    assert not lent.reads_in_place([memoryview(bytes(16))])
    assert not lent.reads_in_place([bytes(16)])


@pytest.mark.parametrize(
    ("dtype", "wire"), [("bool", ""), ("float32", "bfloat16"), ("int64", "int8"), ("bool", "bit")]
)
def test_what_must_be_made_another_is_not_read_where_it_lies(dtype, wire):
    """A bool may be a 2, and what is narrow is widened."""
    assert not Source(dtype, (4,), 0, wire).reads_in_place([received()])


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int64", "float16", "bfloat16", "float64"]
)
def test_a_tensor_of_any_dtype_is_as_a_copy_is(dtype):
    """The same dtype, shape and bits as of a message that is copied."""
    source = Source(dtype, (2, 24 // getattr(torch, dtype).itemsize), 0)
    own, copied = received(48), memoryview(bytes(received(48)))
    ours, theirs = source.tensor([own]), source.tensor([copied])

    assert source.reads_in_place([own])
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.data_ptr() == np.frombuffer(own, np.uint8).ctypes.data
    assert bytes(ours.view(torch.uint8).numpy()) == bytes(theirs.view(torch.uint8).numpy())


def test_the_message_stays_while_its_tensor_does():
    """Though nobody else remembers it."""
    tensor = FLOATS.tensor([received()])

    np.testing.assert_array_equal(tensor.view(torch.uint8).numpy(), np.arange(16))


def test_a_tensor_of_no_elements_may_lie_anywhere():
    """It has no bytes that could be another's."""
    empty = Source("float32", (0, 4), 0)

    for payload in (received(0), received(0, at=3), memoryview(b""), b""):
        assert empty.tensor([payload]).shape == (0, 4)


GENERATOR = np.random.default_rng(0)
PRED = GENERATOR.random((300, 1000), np.float32)
BITS = GENERATOR.random((300, 1000)) > 0.5
CALLS = {
    "floats": ({"type": "L1Loss"}, PRED, PRED[::-1].copy(), {}),
    "a weight": ({"type": "MSELoss"}, PRED, 0 * PRED, {"weight": PRED, "avg_factor": 3.0}),
    "bool targets": ({"type": "LovaszHingeLoss"}, PRED, BITS, {}),
    "halves": ({"type": "L1Loss"}, PRED.astype(np.float16), np.zeros((300, 1000), np.float16), {}),
    "doubles": ({"type": "SmoothL1Loss"}, PRED.astype(float), PRED.astype(float) * 2, {}),
    "labels": ({"type": "CrossEntropyLoss"}, PRED, np.arange(300), {}),
    "uint8 labels": ({"type": "CrossEntropyLoss"}, PRED, np.arange(300, dtype=np.uint8) % 250, {}),
    "both gradients": ({"type": "L1Loss"}, PRED, 0 * PRED, {"wrt": ("pred", "target")}),
    "unreduced": ({"type": "L1Loss"}, PRED, 0 * PRED, {"reduction_override": "none"}),
    "one that is checked": ({"type": "FocalLoss", "activated": True}, PRED, np.arange(300), {}),
}


@pytest.fixture(scope="module")
def bypassing(server):
    """A client whose large calls go by a bypass, too."""
    with lossclient.connect(server.target, plane="stream") as client:
        stream = client.transport.targets.order()[0].line.keep(Stream, Stream)
        while not stream.bypassed:
            client.compute({"type": "L1Loss"}, PRED[:1], PRED[:1])
        yield client


@pytest.fixture(scope="module")
def inline(server):
    """A client whose calls go by gRPC, in one message each."""
    with lossclient.connect(server.target, plane="inline") as client:
        yield client


@pytest.mark.parametrize(("config", "pred", "target", "more"), CALLS.values(), ids=CALLS)
def test_the_answer_is_as_by_grpc(config, pred, target, more, bypassing, inline):
    """Of calls that are computed where they lie, again and again."""
    assert pred.nbytes >= LARGE
    theirs = inline.compute(config, pred, target, **more)
    for _ in range(2):
        ours = bypassing.compute(config, pred, target, **more)

        np.testing.assert_array_equal(ours.loss, theirs.loss)
        assert ours.grads.keys() == theirs.grads.keys()
        for name, grad in theirs.grads.items():
            assert ours.grads[name].dtype == grad.dtype
            np.testing.assert_array_equal(ours.grads[name], grad)


def test_brain_floats_are_as_by_grpc(bypassing, inline):
    """Which numpy has not."""
    brain = pytest.importorskip("ml_dtypes").bfloat16
    pred, target = PRED.astype(brain), np.zeros_like(PRED, brain)
    ours, theirs = (
        client.compute({"type": "L1Loss"}, pred, target) for client in (bypassing, inline)
    )

    assert ours.loss == theirs.loss
    assert ours.grad.dtype == theirs.grad.dtype == brain
    np.testing.assert_array_equal(ours.grad.view(np.int16), theirs.grad.view(np.int16))
