"""Bad input gets a clear error over the wire, with google.rpc details, and the server goes on."""

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

import lossclient
from losswire import frame, value
from losswire.status import DETAILS
from losswire.v1 import loss_pb2 as pb

FOCAL = {"type": "FocalLoss"}
L1 = {"type": "L1Loss"}
ENTROPY = {"type": "CrossEntropyLoss"}
SIGMOID = {"type": "CrossEntropyLoss", "use_sigmoid": True}


def floats(*shape):
    return np.zeros(shape, np.float32)


def labels(*values):
    return np.array(values, np.int64)


REFUSED = [
    # config, inputs and options of the call, class, message
    ({"type": "os.system"}, {}, "UnknownLossError", "config.type: no loss named 'os.system'"),
    ({"type": "FocalLos"}, {}, "UnknownLossError", "near names: FocalLoss"),
    ({}, {}, "SpecError", "config.type: a config must name its loss"),
    ({"type": "FocalLoss", "gama": 2}, {}, "SpecError", "config.gama: .* near names: gamma"),
    ({"type": "FocalLoss", "gamma": -1}, {}, "SpecError", "config.gamma: must be at least 0"),
    (L1 | {"reduction": "average"}, {}, "SpecError", "reduction: must be one of .*given average"),
    (FOCAL, {"target": labels(0, 81)}, "TensorError", r"target: .* in 0\.\.3, .*; given 81"),
    (FOCAL, {"target": labels(0, -1)}, "TensorError", r"target: .* in 0\.\.3, .*; given -1"),
    (
        FOCAL,
        {"target": labels(0)},
        "TensorError",
        r"target: .*pred \[N, C\].*\[2, 3\]; given \[1\]",
    ),
    (FOCAL, {"target": floats(2)}, "TensorError", "integer type; given float32"),
    (FOCAL, {"weight": floats(5)}, "TensorError", r"weight: must be \[N\].*\[2, 3\]; given \[5\]"),
    (
        FOCAL | {"activated": True},
        {"pred": floats(2, 3) + 2},
        "TensorError",
        r"pred: probabilities .* must be in \[0, 1\]; given 2.0",
    ),
    (L1, {"target": floats(3, 3)}, "TensorError", r"target: .* pred, \[2, 3\]; given \[3, 3\]"),
    (
        L1,
        {"target": floats(2, 3), "weight": floats(2) + 1},
        "TensorError",
        "weight: must broadcast",
    ),
    (
        {"type": "MSELoss"},
        {"pred": floats(9000, 1), "target": floats(1, 9000)},
        "TensorError",
        "target: must not broadcast to over 16777216",
    ),
    (
        ENTROPY,
        {"target": labels(0, 3)},
        "TensorError",
        r"in 0\.\.2, or -100 to be ignored; given 3",
    ),
    (ENTROPY, {"target": floats(2, 4)}, "TensorError", r"class indices \[2\] or probabilities"),
    (ENTROPY, {"target": labels(0, 0), "ignore_index": 0.5}, "SpecError", "ignore_index: must be"),
    (ENTROPY | {"class_weight": [1, 2]}, {}, "SpecError", "config.class_weight: .* has 3; given 2"),
    (SIGMOID, {"weight": floats(2, 3)}, "TensorError", r"weight: must be \[N\] for class indices"),
    (ENTROPY | {"class_weight": [1.0] * 9000}, {}, "SpecError", "config: .* at most 65536 bytes"),
    (FOCAL, {"wrt": ("target",)}, "TensorError", "target: a gradient goes with a floating-point"),
    (FOCAL, {"wrt": ("logits",)}, "SpecError", "wrt: .* pred, target; given logits"),
    (
        FOCAL,
        {"pos_inds": labels(0)},
        "SpecError",
        "takes the inputs pred, target, weight; given pos",
    ),
    (FOCAL, {"pred": None, "target": None}, "TensorError", "inputs: .* at least one tensor"),
    (FOCAL, {"target": None}, "TensorError", "target: FocalLoss needs this input; given nothing"),
    (FOCAL, {"pred": [floats(2, 3)]}, "TensorError", "pred: must be one tensor; given list"),
    (FOCAL, {"pred": labels(1, 2)}, "TensorError", "pred: a gradient goes with a .* given int64"),
    (
        FOCAL,
        {"pred": labels(1, 2), "wrt": ()},
        "TensorError",
        "pred: must be floating point; given",
    ),
    (FOCAL, {"reduction_override": "average"}, "SpecError", "reduction_override: must be one of"),
    (
        FOCAL | {"reduction": "sum"},
        {"avg_factor": 3},
        "SpecError",
        "avg_factor: goes with reduction .* only; given reduction 'sum'",
    ),
    (
        FOCAL,
        {"grad_output": {"los": floats()}},
        "SpecError",
        "outputs of FocalLoss are loss; given",
    ),
    (FOCAL, {"grad_output": labels(1)}, "TensorError", "grad_output: .* given int64"),
    (FOCAL, {"state": 1}, "SpecError", "state: FocalLoss does not remember"),
    (L1, {"target": floats(2, 3) > 1}, "TensorError", "target: must hold numbers; given bool"),
    (
        FOCAL,
        {"pred": floats(3), "target": floats(3), "weight": floats(3, 1)},
        "TensorError",
        "weight",
    ),
    (FOCAL, {"pred": [1.0, 2.0], "target": [1]}, "TensorError", "a list of numbers is none"),
    (FOCAL, {"wrt": "logits"}, "SpecError", "given logits"),
    (FOCAL, {"timeout": float("nan")}, "DeadlineError", "timeout: .* given nan s"),
    (FOCAL, {"avg_factor": "x"}, "SpecError", "avg_factor: must be a number; given 'x'"),
    (FOCAL, {"reduction_override": 3}, "SpecError", "reduction_override: must be a text; given 3"),
    (FOCAL, {"grad_output": floats(2)}, "TensorError", r"grad_output: .* \[\]; given \[2\]"),
    (
        FOCAL,
        {"grad_output": floats(2), "reduction_override": "none"},
        "TensorError",
        r"grad_output: must be shaped like the loss, \[2, 3\]; given \[2\]",
    ),
    (FOCAL, {"timeout": 0.0}, "DeadlineError", "timeout: must be above 0; given 0.0 s"),
]


@pytest.mark.parametrize(("config", "changed", "name", "said"), REFUSED)
def test_a_bad_call_is_refused(client, config, changed, name, said):
    """The error is of the right class and names field, rule and what was given."""
    call = {"pred": floats(2, 3), "target": labels(0, 1)} | changed
    with pytest.raises(getattr(lossclient, name), match=said):
        client.compute(config, **call)


@pytest.mark.parametrize(
    "call",
    [
        {"pred": floats(2, 3) * np.nan},
        {"pred": floats(2, 3) + np.inf},
        {"pred": floats(0, 3), "target": labels()},
        {"pred": floats(2, 0), "target": labels(0, 0)},
        {"target": np.array([0, 3], np.int32)},
        {"weight": floats(2)},
    ],
)
@pytest.mark.parametrize("config", [FOCAL, FOCAL | {"activated": True}, SIGMOID], ids=str)
def test_odd_is_not_bad(client, config, call):
    """NaN and inf, nothing at all, labels of JAX's integer type, zero weights: all are answered."""
    if "activated" in config and np.isinf(call.get("pred", 0)).any():
        call = {}
    result = client.compute(config, **{"pred": floats(2, 3), "target": labels(0, 1)} | call)

    assert isinstance(result.loss, float)


def raw(server, message: bytes) -> grpc.RpcError:
    """The error of a message as bytes, sent by no client of ours."""
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/losswire.v1.LossService/Compute")
        with pytest.raises(grpc.RpcError) as caught:
            call(message, timeout=30)
    return caught.value


def request(**header):
    payloads = []
    packed = {
        "config": value.pack(header.pop("config", FOCAL), []),
        "inputs": {"pred": value.pack(floats(2, 3), payloads)},
    }
    return pb.ComputeHeader(**packed | header), payloads


def described(**tensor):
    return {"pred": pb.Value(tensor_value=pb.Tensor(**{"dtype": 9, "shape": [2]} | tensor))}


def deep(levels):
    """A header whose config is a list in a list in a list; protobuf itself would not build it."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + frame.varint(len(content)) + content

    config = pb.Value(int_value=1).SerializeToString()
    for _ in range(levels):
        config = field(6, field(1, config))
    return frame.write(field(1, config), [])


HOSTILE = [
    (b"\xff\xff\xff", "a message must be"),
    (b"", "config: must be a map"),
    (b"\x0a\x02\x38\x00" * 5000, "at most 4096 fields"),
    (b"\x12\x00" * 5000, "at most 4096 fields"),
    (frame.write(b"\x38\x00" * 2**20, []), "header: must have at most 1048576 bytes"),
    (frame.write(b"\xff\xff", []), "header: must be a losswire.v1.ComputeHeader"),
    (deep(60), "at most 16 deep"),
    (deep(20), "at most 16 deep"),
    (frame.write(request()[0].SerializeToString(), [b"123"]), "must be 24 bytes; given 3 bytes"),
    (frame.write(request()[0].SerializeToString(), [b"1" * 24, b""]), "1 are; given 2 payloads"),
    (frame.write(request()[0].SerializeToString(), []), "one of the 0 in the message"),
] + [
    (frame.write(request(inputs=described(**tensor))[0].SerializeToString(), [b"1" * 8]), said)
    for tensor, said in [
        ({"dtype": 0}, "dtype must be one of"),
        ({"dtype": 77}, "dtype must be one of"),
        ({"shape": [-2]}, "no extent may be negative"),
        ({"shape": [1] * 33}, "rank must be at most 32"),
        ({"shape": [2**33, 2**33]}, "must be 295147905179352825856 bytes"),
        ({"shape": [0, 2**40]}, "must multiply to at most 16777216"),
        ({"shape": [2**40]}, "must be 4398046511104 bytes"),
    ]
]


@pytest.mark.parametrize(("message", "said"), HOSTILE, ids=[said for _, said in HOSTILE])
def test_hostile_bytes_are_refused(server, message, said):
    """Whatever is sent, the answer is INVALID_ARGUMENT with a sentence, and never a traceback."""
    error = raw(server, message)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in error.details()


def test_the_server_went_on(client):
    """After all of the above it still answers."""
    assert client.compute(L1, floats(2, 3), floats(2, 3)).loss == 0


def test_details_are_in_the_trailers(server):
    """A client in any language finds reason, field, rule and what was given as google.rpc details."""
    message, payloads = request(config={"type": "FocalLoss", "gamma": -1})
    error = raw(server, frame.write(message.SerializeToString(), payloads))
    (details,) = [i.value for i in error.trailing_metadata() if i.key == DETAILS]
    reason, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = status_pb2.Status.FromString(details)
    status.details[0].Unpack(reason)
    status.details[1].Unpack(bad)

    assert (reason.reason, reason.domain) == ("SPEC", "lossserver")
    assert dict(reason.metadata) == {
        "field": "config.gamma",
        "rule": "must be at least 0",
        "given": "-1.0",
    }
    assert bad.field_violations[0].field == "config.gamma"


def test_a_message_over_the_limit_names_the_option(serve):
    """Slightly over, the server says so itself; far over, gRPC does, and the client translates."""
    small = serve("--max-message-bytes", "4000")
    with lossclient.connect(small.target) as client:
        for rows in (400, 4000):
            with pytest.raises(lossclient.MessageTooLargeError, match="--max-message-bytes"):
                client.compute(L1, floats(rows, 3), floats(rows, 3))

        assert client.compute(L1, floats(2, 3), floats(2, 3)).loss == 0


@pytest.mark.parametrize("method", ["ListLosses", "GetServer"])
def test_noise_for_an_empty_request(server, method):
    """These requests have nothing in them, so nothing in them can be wrong."""
    with grpc.insecure_channel(server.target) as channel:
        assert channel.unary_unary(f"/losswire.v1.LossService/{method}")(b"\xff\xff", timeout=30)


def test_what_is_repeated_fits_a_status(client):
    """A bad name of any length and alphabet comes back as what it is: an unknown name, once."""
    with pytest.raises(lossclient.SpecError, match="has no such parameter"):
        client.compute(FOCAL | {"🔥" * 1000: 1}, floats(2, 3), labels(0, 1))
    with pytest.raises(lossclient.UnknownLossError, match=r"there are: "):
        client.compute({"type": "é" * 5000}, floats(2, 3), labels(0, 1))


def test_numbers_without_end(client):
    """A loss_weight beyond float32 gives an infinite loss, not a failed server."""
    assert (
        client.compute(L1 | {"loss_weight": 1e300}, floats(2, 3) + 1, floats(2, 3)).loss == np.inf
    )


def test_no_gradient_reaches_what_is_not_read(client):
    """Where upstream's short cut leaves the target out, its gradient is None."""
    result = client.compute(
        L1, floats(2, 3), floats(2, 3), weight=floats(2, 3), wrt=("pred", "target")
    )

    assert result.grads["target"] is None
    assert result.grad.shape == (2, 3)
