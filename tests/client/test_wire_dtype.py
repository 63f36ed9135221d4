"""wire_dtype and grad_keep, as a trainer uses them: what travels, what comes back, and how far off it is."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import lossclient
from lossclient.call import call_message, encode_call
from lossclient.client import _to_numpy
from lossclient.pieces import pieces
from lossclient.planes import inline, streamed
from lossclient.reply import decode_reply
from lossclient.shared import shared
from lossclient.terms import Terms
from lossclient.torch import RemoteLoss
from lossclient.torch_bytes import to_bytes, to_torch
from losswire import tensor
from losswire.narrow import SHORT
from losswire.v1 import loss_pb2 as pb

ENTROPY = {"type": "CrossEntropyLoss"}
FOCAL = {"type": "FocalLoss"}
RANDOM = np.random.default_rng(0)

#: Logits of a head that has begun to tell classes apart.
LOGITS = 3 * RANDOM.standard_normal((256, 1000)).astype(np.float32)
LABELS = RANDOM.integers(0, 1000, 256)


def off(found, expected):
    """Relative error, in the norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def tensors_of(parts):
    """The inputs as the header describes them."""
    header = pb.ComputeHeader.FromString(parts.header)
    return {name: value.tensor_value for name, value in header.inputs.items()}


@pytest.mark.parametrize(
    ("wire_dtype", "stated"),
    [
        ({"grad": "bfloat16"}, 0.0007),
        ({"grad": "float16"}, 0.00009),
        ({"grad": "int8"}, 0.02),
        ({"pred": "bfloat16"}, 0.004),
        ({"pred": "float16"}, 0.0005),
        ({"pred": "int8"}, 0.0044),
        ("bfloat16", 0.004),
        ("float16", 0.0005),
        ("int8", 0.0044),
    ],
)
def test_how_far_off_a_gradient_is(client, wire_dtype, stated):
    """Of cross entropy, in the norm, as docs/planes.md has it. What is not rounded stays the same."""
    plain = client.compute(ENTROPY, LOGITS, LABELS)
    found = client.compute(ENTROPY, LOGITS, LABELS, wire_dtype=wire_dtype)

    assert off(found.grad, plain.grad) == pytest.approx(stated, rel=0.25)
    assert found.grad.dtype == np.float32
    assert found.loss == pytest.approx(plain.loss, rel=2e-4)
    if "grad" in wire_dtype:
        assert found.loss == plain.loss


def test_int8_alone_leaves_gradients_in_bfloat16():
    """In steps of a 127th of the label's element, all others of a row of cross entropy would be 0."""
    alone = call_message(ENTROPY, LOGITS, LABELS, wire_dtype="int8")
    named = call_message(ENTROPY, LOGITS, LABELS, wire_dtype={"grad": "int8"})
    wires = [pb.ComputeHeader.FromString(parts.header).wire_dtype for parts in (alone, named)]

    assert wires == [pb.DTYPE_BFLOAT16, pb.DTYPE_INT8]


def detections(anchors=8192, classes=80, objects=60):
    """Logits and labels of a dense detector: all say about 1 %, and few anchors are an object."""
    pred = RANDOM.normal(-4.6, 1, (anchors, classes)).astype(np.float32)
    labels = np.full(anchors, classes)
    labels[RANDOM.choice(anchors, objects, replace=False)] = RANDOM.integers(0, classes, objects)
    return pred, labels


def test_the_top_of_a_focal_gradient_is_nearly_all_of_it(client):
    """The top 1 % of a dense detector's gradient holds 99.6 % of its sum of squares, or more."""
    pred, labels = detections()
    plain = client.compute(FOCAL, pred, labels)
    found = client.compute(FOCAL, pred, labels, grad_keep=0.01)

    assert found.kept["pred"] > 0.996
    assert off(found.grad, plain.grad) ** 2 == pytest.approx(1 - found.kept["pred"], abs=1e-4)
    assert np.count_nonzero(found.grad) == np.ceil(0.01 * pred.size)
    assert found.grad.shape == pred.shape


def test_what_was_kept_is_said_of_each_gradient(client):
    """By name, and by place in a tree; of a call that did not ask, nothing."""
    one = client.compute(ENTROPY, LOGITS, LABELS, grad_keep=1)
    none = client.compute(ENTROPY, LOGITS, LABELS)
    pred, target = LOGITS[:, :64], LOGITS[:, 64:128]
    both = client.compute({"type": "MSELoss"}, pred, target, grad_keep=0.05, wrt=("pred", "target"))

    assert one.kept == {"pred": 1.0}
    assert none.kept == {}
    assert both.kept.keys() == {"pred", "target"}


def test_a_client_s_terms_hold_for_each_of_its_calls(server):
    """Until a call has its own."""
    terms = {"wire_dtype": "bfloat16", "grad_keep": 0.01}
    with lossclient.connect(server.target, **terms) as client:
        usual = client.compute(ENTROPY, LOGITS, LABELS)
        submitted = client.submit(ENTROPY, LOGITS, LABELS).result()
        own = client.compute(ENTROPY, LOGITS, LABELS, wire_dtype={}, grad_keep=1)

    assert np.count_nonzero(usual.grad) == np.ceil(0.01 * LOGITS.size)
    np.testing.assert_array_equal(usual.grad, submitted.grad)
    assert np.count_nonzero(own.grad) == LOGITS.size
    assert own.loss != usual.loss


def test_what_is_not_named_travels_as_it_is():
    """A type alone is that of pred; weights, targets and upstream gradients are named, or not rounded."""
    weight = np.ones(256, np.float32)
    told = {"weight": weight, "grad_output": np.float32(3)}
    plain = tensors_of(call_message(ENTROPY, LOGITS, LABELS, wire_dtype="int8", **told))
    named = tensors_of(
        call_message(ENTROPY, LOGITS, LABELS, wire_dtype={"weight": "float16"}, **told)
    )

    assert plain["pred"].wire == pb.DTYPE_INT8
    assert not plain["weight"].wire
    assert not named["pred"].wire
    assert named["weight"].wire == pb.DTYPE_FLOAT16


def test_every_tensor_of_a_tree_is_rounded():
    """A head's pred is a dict of lists."""
    pred = {"cls_scores": [np.zeros((1, 4), np.float32)] * 2, "n": 3}
    header = pb.ComputeHeader.FromString(
        encode_call({"type": "X"}, {"pred": pred}, terms=Terms(wire_dtype="bfloat16")).header
    )
    levels = header.inputs["pred"].map_value.entries["cls_scores"].list_value.items

    assert [level.tensor_value.wire for level in levels] == [pb.DTYPE_BFLOAT16] * 2


@pytest.mark.parametrize(
    ("target", "wire"),
    [
        (np.arange(SHORT) % 80, pb.DTYPE_UINT8),
        (np.arange(SHORT) % 1000, pb.DTYPE_INT16),
        (np.arange(SHORT) % 2, pb.DTYPE_BIT),
        (np.arange(SHORT) % 2 > 0, pb.DTYPE_BIT),
        (np.arange(8) % 2, 0),
        (np.arange(SHORT, dtype=np.float32) % 2, 0),
    ],
)
def test_integers_travel_in_what_holds_them(target, wire):
    """Nobody has to ask: nothing is lost."""
    assert tensors_of(call_message(ENTROPY, LOGITS, target))["target"].wire == wire


def test_targets_in_fewer_bytes_give_the_same_answer(client):
    """int64 class indices and a bool mask, of a size at which they are narrowed."""
    pred = RANDOM.standard_normal((SHORT, 5)).astype(np.float32)
    labels = RANDOM.integers(0, 5, SHORT)
    whole = client.compute(ENTROPY, pred, labels)
    parts = zip(np.split(pred, 8), np.split(labels, 8), strict=True)
    losses = [client.compute(ENTROPY, *part).loss for part in parts]

    assert whole.loss == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (
            {"wire_dtype": "fp16"},
            "wire_dtype: must be one of float16, bfloat16, int8; given 'fp16'",
        ),
        ({"wire_dtype": {"pred": "int4"}}, "wire_dtype.pred: must be one of"),
        ({"wire_dtype": {"grad": None}}, "wire_dtype.grad: must be one of .* given None"),
        ({"wire_dtype": 16}, "wire_dtype: must be one of .* given 16"),
        ({"grad_keep": 0}, "grad_keep: must be above 0 and at most 1; given 0"),
        ({"grad_keep": 1.5}, "grad_keep: must be above 0 and at most 1; given 1.5"),
    ],
)
def test_terms_that_are_none_are_refused_at_once(client, terms, said):
    """At connect, and at the call: before anything is sent."""
    with pytest.raises(lossclient.SpecError, match=said):
        lossclient.connect("localhost:1", **terms)
    with pytest.raises(lossclient.SpecError, match=said):
        client.compute(ENTROPY, LOGITS, LABELS, **terms)


def test_terms_travel_with_a_client_to_a_worker():
    """A pickled client asks for what its original did."""
    client = lossclient.connect("localhost:1", wire_dtype={"grad": "int8"}, grad_keep=0.5)

    assert pickle.loads(pickle.dumps(client)).terms == client.terms  # noqa: S301  (our own)


def remote(server, **terms):
    """A remote loss of a client with those terms, and a copy of the logits that wants a gradient."""
    criterion = RemoteLoss(ENTROPY, lossclient.connect(server.target, **terms))
    return criterion, torch.from_numpy(LOGITS).clone().requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wire_dtype", ["bfloat16", "float16", "int8"])
def test_a_remote_loss_under_autograd(server, dtype, wire_dtype):
    """The gradient of a module's input, scaled, is that of the local loss, within the type's error."""
    criterion, pred = remote(server, wire_dtype=wire_dtype)
    pred = pred.detach().to(dtype).requires_grad_()
    target = torch.from_numpy(LABELS)
    (criterion(pred, target) * 1024).backward()
    local = pred.detach().double().requires_grad_()
    (nn.functional.cross_entropy(local, target) * 1024).backward()
    criterion.client.close()

    assert pred.grad.dtype == dtype
    assert off(pred.grad.double().numpy(), local.grad.numpy()) < 1e-2


def test_a_sparse_gradient_under_autograd(server):
    """It is dense by the time it reaches the module's input."""
    criterion, pred = remote(server, wire_dtype="bfloat16", grad_keep=0.01)
    criterion(pred, torch.from_numpy(LABELS)).backward()
    criterion.client.close()

    assert pred.grad.shape == pred.shape
    assert pred.grad.count_nonzero() == np.ceil(0.01 * LOGITS.size)


def test_an_unreduced_loss_under_autograd(server):
    """Its second call, which brings the upstream gradient, is in the same terms."""
    criterion, pred = remote(server, wire_dtype="bfloat16")
    upstream = torch.rand(len(LABELS))
    loss = criterion(pred, torch.from_numpy(LABELS), reduction_override="none")
    loss.backward(upstream)
    local = torch.from_numpy(LOGITS).requires_grad_()
    nn.functional.cross_entropy(local, torch.from_numpy(LABELS), reduction="none").backward(
        upstream
    )
    criterion.client.close()

    assert loss.dtype == torch.float32
    assert off(pred.grad.numpy(), local.grad.numpy()) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_is_rounded_where_it_is(dtype):
    """Before it is copied to the host; read back it has its own dtype."""
    given = torch.linspace(-1, 1, 12, dtype=dtype).reshape(3, 4)
    packed = to_bytes(given, "bfloat16")
    found = to_torch(tensor.read(tensor.describe(packed, 0), tensor.buffers(packed), "pred"))

    assert len(packed.buffer) == 24
    torch.testing.assert_close(found, given.bfloat16().to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("plane", [inline, streamed, pieces, shared])
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "GHMC"])
@pytest.mark.parametrize(
    "terms",
    [
        {"wire_dtype": "bfloat16"},
        {"wire_dtype": "float16"},
        {"wire_dtype": {"pred": "int8", "grad": "int8"}},
        {"wire_dtype": "int8", "grad_keep": 0.01},
    ],
)
def test_every_plane_carries_it(client, plane, loss, terms):
    """Large enough to be cut into slices where it can be: the answer is that of one message."""
    pred = np.tile(LOGITS, (8, 1))
    target = np.tile(LABELS, 8)
    if loss == "GHMC":
        target = np.eye(1000, dtype=np.int64)[target]
    parts = call_message(
        {"type": loss}, pred, target, np.ones_like(pred) if loss == "GHMC" else None, **terms
    )

    def answered(way):
        reply = client.transport.run(lambda line, left: way(parts, line, left), 30)
        return decode_reply(reply, _to_numpy)

    found, expected = answered(plane), answered(inline)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    np.testing.assert_allclose(found.grad, expected.grad, rtol=2.0**-7, atol=1e-9)
    assert found.kept == pytest.approx(expected.kept)
