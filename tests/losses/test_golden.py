"""Every golden case of a served loss, through the client and a server in another process."""

import pytest
import torch
from torch import Tensor

import lossclient
from lossclient.call import decode_reply, encode_call
from lossclient.torch import to_bytes, to_torch
from tests.losses.golden import Golden, goldens

#: rtol and atol, the latter times the largest golden value or 1. float64: rounding of a sum in another
#: order. float32: as MMDetection's own float32 run deviates from its float64 run (5e-7 at most in
#: these cases), with a margin for a sum in another order. Halves: the inputs were rounded before
#: the call, to 2^-11 and 2^-8, and a loss is about as steep as it is large; the answer is rounded
#: once more.
TOLERANCE = {
    "f64": (1e-10, 1e-12),
    "f32": (2e-5, 1e-6),
    "f16": (5e-3, 1e-3),
    "bf16": (4e-2, 1e-2),
}

GOLDENS = goldens()
every_golden = pytest.mark.parametrize("golden", GOLDENS, ids=str)


def compute(client, golden: Golden, wrt=(), grad_output=None):
    """The server's answer as tensors. bfloat16 arrays need a package that NumPy users may lack."""
    inputs, options = golden.call()
    message = encode_call(
        golden.case["cfg"],
        {name: to_bytes(tensor) for name, tensor in inputs.items()}
        | {k: v for k, v in options.items() if k not in ("avg_factor", "reduction_override")},
        wrt=wrt,
        grad_output=None if grad_output is None else to_bytes(grad_output),
        avg_factor=options.get("avg_factor"),
        reduction_override=options.get("reduction_override"),
    )
    return decode_reply(client.send(message, 30), to_torch)


def assert_close(golden: Golden, ours: Tensor, theirs: Tensor) -> None:
    """Equal within the run's tolerance; NaN equals NaN."""
    rtol, atol = TOLERANCE[golden.run]
    finite = theirs[theirs.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol * scale, equal_nan=True, check_dtype=False
    )


def test_there_are_cases():
    """The set was found: an empty one would pass every other test here."""
    assert len({golden.case["id"] for golden in GOLDENS}) >= 83


@every_golden
def test_value_and_gradient(client, golden):
    """The loss and each gradient are upstream's; where upstream raises, the request is refused."""
    expected = golden.expected()
    if "raises" in expected:
        with pytest.raises(lossclient.RequestError):
            compute(client, golden)
        return
    names = {golden.ours(name): key for name, key in expected["grad_ones"].items()}
    result = compute(client, golden, wrt=names)

    assert_close(golden, result.loss, golden.tensor(expected["outputs"]["out"]["key"]))
    for name, key in names.items():
        sent = golden.call()[0][name]
        assert result.grads[name].dtype is sent.dtype
        assert_close(golden, result.grads[name], golden.tensor(key))


@pytest.mark.parametrize("golden", [g for g in GOLDENS if g.expected().get("grad_go")], ids=str)
def test_gradient_of_an_uneven_upstream(client, golden):
    """A grad_output that differs from row to row gives upstream's gradient."""
    expected = golden.expected()
    upstream = golden.tensor(expected["go"]["out"]).to(torch.float64)
    names = {golden.ours(name): key for name, key in expected["grad_go"].items()}
    result = compute(client, golden, wrt=names, grad_output=upstream)

    for name, key in names.items():
        assert_close(golden, result.grads[name], golden.tensor(key))
