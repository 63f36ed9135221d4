"""lossserver.wishes and source: narrow calls in, narrow gradients out, and nobody's neighbour notices."""

import numpy as np
import pytest
import torch
from google.protobuf.message import Message

import lossclient
from lossclient.call import call_message
from lossclient.client import _to_numpy
from lossclient.reply import decode_reply
from lossclient.terms import Terms
from lossserver.compute import compute
from lossserver.decode import opened
from lossserver.encode import encode
from lossserver.job import Result
from lossserver.wishes import NO_WISHES, Wishes, common
from losswire import tensor
from losswire.dtypes import DTYPES
from losswire.errors import LossError, SpecError, TensorError
from losswire.frame import Parts
from losswire.narrow import SHORT
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb
from tests.losses.calls import CPU, job_of, results

ENTROPY = {"type": "CrossEntropyLoss"}
ALONE = {"type": "GHMC"}
PRED = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(6)
WISHES = [
    {},
    {"wire_dtype": "bfloat16"},
    {"wire_dtype": "float16"},
    {"wire_dtype": "int8"},
    {"grad_keep": 0.1},
    {"wire_dtype": "bfloat16", "grad_keep": 0.1},
    {"wire_dtype": "int8", "grad_keep": 0.1},
]


def wishing(pred=PRED, **wishes):
    """A job of a caller that sends its pred whole, and has wishes for the gradient."""
    if "wire_dtype" in wishes:
        wishes["wire_dtype"] = {"grad": wishes["wire_dtype"]}
    return job_of(ENTROPY, {"pred": pred, "target": TARGET}, terms=Terms(**wishes))


def as_sent(job, computed):
    """The parts of a job's answer."""
    return encode(Result(computed=computed, batch=1, queue=0, compute=0), 0, job)


def described(parts: Parts) -> pb.Tensor:
    """The gradient, as the answer's header has it."""
    return pb.ResultHeader.FromString(parts.header).grads["pred"].tensor_value


def error_of(wishes):
    """What a gradient in these terms may be off by, relative to its row's largest element."""
    wire = wishes.get("wire_dtype")
    return {None: 1e-6, "bfloat16": 2**-8, "float16": 2**-11, "int8": 1 / 250}[wire]


def test_callers_of_different_wishes_share_a_batch():
    """Each gets its gradient as it asked for it, and the loss as if nobody had asked for anything."""
    jobs = [wishing(**wishes) for wishes in WISHES]
    plain, *others = results(*jobs)

    assert len({job.key for job in jobs}) == 1
    for found, wishes in zip(others, WISHES[1:], strict=True):
        kept = found.grad != 0 if "grad_keep" in wishes else torch.ones_like(found.grad) != 0
        expected = torch.where(kept, plain.grad, 0)
        most = plain.grad.abs().amax(1, keepdim=True) * error_of(wishes) + 1e-9
        assert found.loss == plain.loss
        assert found.grad.dtype == torch.float32
        assert ((found.grad - expected).abs() <= most).all()
        assert kept.float().mean() == pytest.approx(wishes.get("grad_keep", 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 3])
def test_bfloat16_leaves_the_device_as_such(dtype, count):
    """Half of the bytes are copied back, and are still described as what was sent."""
    jobs = [wishing(PRED.to(dtype), wire_dtype="bfloat16") for _ in range(count)]
    for job, computed in zip(jobs, compute(jobs, CPU), strict=True):
        found = described(as_sent(job, computed))

        assert computed.grads["pred"].dtype == torch.bfloat16
        assert found.dtype == DTYPES[str(dtype).removeprefix("torch.")].wire
        assert found.wire == pb.DTYPE_BFLOAT16


def test_a_loss_computed_alone_heeds_them_too():
    """Such as looks at all rows at once."""
    inputs = {"pred": PRED[:, :1], "target": TARGET[:, None] % 2, "weight": torch.ones(6, 1)}
    (plain,), (found,) = (
        results(job_of(ALONE, inputs, terms=Terms(wire_dtype=wire)))
        for wire in (None, {"grad": "bfloat16"})
    )

    torch.testing.assert_close(found.grad, plain.grad, rtol=2**-8, atol=1e-9)
    torch.testing.assert_close(found.loss, plain.loss, rtol=0, atol=0)
    torch.testing.assert_close(found.state, plain.state, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wishes", WISHES[1:4])
def test_halves_are_answered_as_they_are(dtype, wishes):
    """They are short already."""
    job = wishing(PRED.to(dtype), **wishes)
    (computed,) = compute([job], CPU)

    assert computed.grads["pred"].dtype == dtype
    assert not described(as_sent(job, computed)).wire


def test_what_all_wish_is_what_each_of_them_does():
    """One that wishes otherwise is enough for none."""
    assert common([Wishes("bfloat16")] * 3) == Wishes("bfloat16")
    assert common([Wishes("bfloat16"), NO_WISHES]) == NO_WISHES


def changed(parts: Parts, **fields) -> Parts:
    """The same call, with other fields in its header."""
    header = pb.ComputeHeader.FromString(parts.header)
    for name, value in fields.items():
        if isinstance(value, Message):
            getattr(header, name).CopyFrom(value)
        else:
            setattr(header, name, value)
    return parts._replace(header=header.SerializeToString())


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"wire_dtype": pb.DTYPE_FLOAT32}, "wire_dtype: must be one of bfloat16, .* given 9"),
        ({"wire_dtype": pb.DTYPE_BIT}, "wire_dtype: must be one of bfloat16, .* given 11"),
        ({"wire_dtype": 99}, "wire_dtype: must be one of bfloat16, float16, int8; given 99"),
        ({"grad_keep": 0.0}, "grad_keep: must be above 0 and at most 1; given 0.0"),
        ({"grad_keep": -1.0}, "grad_keep: must be above 0 and at most 1; given -1.0"),
        ({"grad_keep": 1.01}, "grad_keep: must be above 0 and at most 1; given 1.01"),
        ({"grad_keep": float("nan")}, "grad_keep: must be above 0 and at most 1; given nan"),
    ],
)
def test_a_wish_that_is_none_is_refused(client, wish, said):
    """By the server, whatever client sends it."""
    parts = call_message(ENTROPY, PRED.numpy(), TARGET.numpy())

    with pytest.raises(SpecError, match=said):
        client.send(changed(parts, **wish), 30)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, bool])
def test_targets_come_in_as_they_were(dtype):
    """As bytes or as bits, they are widened to the dtype that was sent."""
    target = (np.arange(SHORT) % 2).astype(dtype)
    parts = call_message({"type": "CrossEntropyLoss"}, np.zeros((SHORT, 2), np.float32), target)
    said = opened(parts).outline()
    call = said.filled(parts.payloads)

    assert call.inputs["target"].dtype == torch.from_numpy(target).dtype
    np.testing.assert_array_equal(call.inputs["target"].numpy(), target)
    assert said.spread == target.nbytes - len(parts.payloads[1])


@pytest.mark.parametrize("wire", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (4, 3), (2, 3, 2, 2)])
def test_pred_comes_in_as_its_client_would_read_it(wire, dtype, shape):
    """The server widens as the client does; only the machinery differs."""
    pred = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    given = call_message({"type": "L1Loss"}, pred, pred, wire_dtype=wire)
    found = opened(given).outline().filled(given.payloads).inputs["pred"]
    reader = pb.ComputeHeader.FromString(given.header).inputs["pred"].tensor_value
    expected = tensor.unpack(tensor.read(reader, given.payloads, "pred"))

    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_sparse_input_is_refused(client):
    """Sixteen bytes would be a tensor of any size."""
    pred = pb.Tensor(dtype=pb.DTYPE_FLOAT64, shape=[2**20, 2**20], payload=0, indices=1)
    parts = call_message(ENTROPY, PRED.numpy(), None)
    value = pb.Value(tensor_value=pred)
    header = pb.ComputeHeader.FromString(parts.header)
    header.inputs["pred"].CopyFrom(value)

    with pytest.raises(TensorError, match="only a gradient may be sparse"):
        client.send(Parts(header.SerializeToString(), [bytes(8), bytes(8)]), 30)


def test_what_a_call_becomes_is_counted_and_not_what_it_is(serve):
    """A small message of bits, that would be 64 times as much, enters only where there is room."""
    server = serve("--max-bytes-in-flight", "1000000", "--max-message-bytes", "1000000")
    bits = TensorBytes("int64", (2_000_000,), bytes(250_000), tensor.precision.Narrow("bit"))
    with lossclient.connect(server.target) as client:
        with pytest.raises(LossError, match="at most 1000000 bytes"):
            client.compute({"type": "L1Loss"}, np.zeros(2, np.float32), bits)

        assert client.compute({"type": "L1Loss"}, np.ones(2), np.zeros(2)).loss == 1


def test_a_hostile_narrow_call_costs_nobody_else_anything(client):
    """Scales that are too few, and a type that is too wide, are refused; the server goes on."""
    good = call_message(ENTROPY, PRED.numpy(), TARGET.numpy(), wire_dtype="int8")
    header = pb.ComputeHeader.FromString(good.header)
    header.inputs["pred"].tensor_value.wire = pb.DTYPE_FLOAT64
    few = [good.payloads[0], bytes(4), *good.payloads[2:]]

    with pytest.raises(TensorError, match=r"pred: scales of \[6, 40\] must be 24 bytes"):
        client.send(good._replace(payloads=few), 30)
    with pytest.raises(TensorError, match="pred: the wire type of float32 must be one of"):
        client.send(good._replace(header=header.SerializeToString()), 30)
    assert np.isfinite(decode_reply(client.send(good, 30), _to_numpy).loss)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 0.0, 3e38])
def test_scales_may_be_any_number(client, scale):
    """They make a pred of NaN, or a strange one: its caller's matter alone."""
    good = call_message(ENTROPY, PRED.numpy(), TARGET.numpy(), wire_dtype="int8")
    scales = np.full(6, scale, np.float32).tobytes()
    parts = good._replace(payloads=[good.payloads[0], scales, *good.payloads[2:]])

    assert decode_reply(client.send(parts, 30), _to_numpy).grad.shape == (6, 40)
