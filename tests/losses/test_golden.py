"""Every golden case of a served loss, through the client and a server in another process."""

import itertools

import pytest
import torch
from torch import Tensor

import lossclient
from lossclient.call import encode_call
from lossclient.reply import decode_reply
from lossclient.terms import USUAL
from lossclient.torch_bytes import to_bytes, to_torch
from lossserver.losses.corners import clamped_sigmoid
from lossserver.losses.cotangent import cotangent
from lossserver.registry import LOSSES, RefusedError
from lossserver.tree import map_tensors
from tests.losses.golden import ERRORS, Golden, Step, goldens, manifest

#: rtol and atol, the latter times the largest golden value or 1. float64: rounding of a sum in another
#: order. float32: as MMDetection's own float32 run deviates from its float64 run (5e-7 at most in
#: well-conditioned cases), with a margin for a sum in another order. Halves: the inputs were rounded
#: before the call, to 2^-11 and 2^-8, and a loss is about as steep as it is large; the answer is
#: rounded once more.
TOLERANCE = {
    "f64": (1e-10, 1e-12),
    "f32": (2e-5, 1e-6),
    "f16": (5e-3, 1e-3),
    "bf16": (4e-2, 1e-2),
}

#: Cases that are answered otherwise than upstream, on purpose (docs/differences.md).
OTHERWISE = {
    "L2Loss/008-err_margin_leaf": "upstream writes into a leaf and fails; here the margin is taken",
    "MarginL2Loss/008-err_margin_leaf": "likewise",
    "CornerNet.AELoss/005-bool_mask_push_is_zero": "a bool mask means what a uint8 one does",
}

#: Buffers of upstream's that follow from the config, and need not be remembered.
FOLLOWS = {"edges"}

GOLDENS = [golden for golden in goldens() if golden.case["id"] not in OTHERWISE]
every_golden = pytest.mark.parametrize("golden", GOLDENS, ids=str)


def compute(client, golden: Golden, step: Step, wrt=(), grad_output=None, state=None, terms=USUAL):
    """The server's answer as tensors. bfloat16 arrays need a package that NumPy users may lack."""
    message = encode_call(
        golden.config,
        map_tensors(to_bytes, step.inputs),
        wrt=wrt,
        grad_output=map_tensors(to_bytes, grad_output),
        state=map_tensors(to_bytes, state),
        terms=terms,
        **step.options,
    )
    return decode_reply(client.send(message, 30), to_torch)


def assert_close(golden: Golden, ours: Tensor | None, theirs: Tensor) -> None:
    """Equal within the run's tolerance; NaN equals NaN."""
    rtol, atol = TOLERANCE[golden.precision]
    finite = theirs[theirs.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol * scale, equal_nan=True, check_dtype=False
    )


def assert_gradients(golden: Golden, step: Step, result, expected: dict[str, str | None]) -> None:
    """Each gradient is upstream's; where upstream has none, there is none, or it is 0."""
    found = step.gradients(result.grads)
    for name, key in expected.items():
        if key is None:
            assert found[name] is None or not found[name].any()
        else:
            assert_close(golden, found[name], golden.tensor(key))


def by_upstreams_names(step: Step, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our outputs by the names of upstream's, which are our own where upstream returns a dict."""
    names = list(losses) if step.named else sorted(step.expected["outputs"])
    found = dict(zip(names, (losses[name] for name in losses), strict=True))

    assert found.keys() == step.expected["outputs"].keys()
    return found


def assert_state(golden: Golden, step: Step, state: dict[str, Tensor] | None) -> None:
    """All that upstream has in buffers is remembered, and no more."""
    stored = step.expected.get("state", {})
    assert (state or {}).keys() == stored.keys() - FOLLOWS
    for name, value in (state or {}).items():
        assert_close(golden, value, golden.tensor(stored[name]))


def test_there_are_cases():
    """The set was found: an empty one would pass every other test here."""
    assert len({golden.case["id"] for golden in GOLDENS}) >= 390


@every_golden
def test_value_and_gradient(client, golden):
    """Loss, gradients and state are upstream's, call by call; where upstream raises, we refuse."""
    state = None
    for step in golden.steps():
        if step.expected.get("raises"):
            with pytest.raises(lossclient.RequestError) as caught:
                compute(client, golden, step, state=state)
            phase = step.expected["raises"]["phase"]
            assert phase == "call" or caught.value.field.startswith("config")
            return
        wanted = step.expected.get("grad_ones", {})
        result = compute(client, golden, step, wrt=step.wrt(wanted), state=state)
        state = result.state

        for name, value in by_upstreams_names(step, result.losses).items():
            assert_close(golden, value, golden.tensor(step.expected["outputs"][name]["key"]))
        assert_gradients(golden, step, result, wanted)
        assert_state(golden, step, state)


def uneven() -> list[Golden]:
    """The cases that record the gradient of an uneven upstream gradient."""
    return [g for g in GOLDENS if any(step.expected.get("grad_go") for step in g.steps())]


@pytest.mark.parametrize("golden", uneven(), ids=str)
def test_gradient_of_an_uneven_upstream(client, golden):
    """A grad_output that differs from row to row, or part to part, gives upstream's gradient."""
    state = None
    for step in golden.steps():
        plain = compute(client, golden, step, state=state)
        upstream = {
            ours: golden.tensor(step.expected["go"][theirs]).double()
            for ours, theirs in zip(
                plain.losses, by_upstreams_names(step, plain.losses), strict=True
            )
        }
        wanted = step.expected["grad_go"]
        result = compute(
            client, golden, step, wrt=step.wrt(wanted), grad_output=upstream, state=state
        )
        state = plain.state

        assert_gradients(golden, step, result, wanted)


@pytest.mark.parametrize("case_id", [pytest.param(k, id=f"{k}: {v}") for k, v in OTHERWISE.items()])
def test_what_upstream_meant(client, case_id):
    """Where upstream fails on legitimate input, there is a finite answer."""
    for golden in goldens():
        if golden.case["id"] == case_id:
            for step in golden.steps():
                result = compute(client, golden, step, wrt=("pred",))
                assert result.loss.isfinite().all()


def functions(name: str) -> list[Golden]:
    """The cases of a function that is no loss."""
    return [
        Golden(case, run)
        for case, run in itertools.product(manifest(), ("f64", "f32"))
        if case["group"] == name or case["cfg"].get("name") == name
    ]


@pytest.mark.parametrize("golden", functions("weight_reduce_loss"), ids=str)
def test_weight_and_reduce(golden):
    """The cotangent weights and reduces as upstream's function does."""
    (step,) = golden.steps()
    given = {k: golden.value(v) for k, v in golden.case["steps"][0]["kwargs"].items()}
    rows, weight = given["loss"], given.get("weight")
    reduction = given.get("reduction", "mean")

    def ends():
        LOSSES.build({"type": "L1Loss", "reduction": reduction})
        return cotangent(
            tuple(rows.shape),
            weight=weight,
            avg_factor=given.get("avg_factor"),
            reduction=reduction,
            loss_weight=1.0,
            upstream=None,
        )

    if step.expected.get("raises"):
        with pytest.raises(RefusedError):
            ends()
        return
    end = ends()
    assert_close(golden, end.value(rows), golden.tensor(step.expected["outputs"]["out"]["key"]))
    assert_close(golden, end.of(rows), golden.tensor(step.expected["grad_ones"]["loss"]))


@pytest.mark.parametrize("golden", functions("_sigmoid"), ids=str)
def test_cornernet_sigmoid(golden):
    """The clamped sigmoid is CornerNet's."""
    (step,) = golden.steps()

    expected = golden.tensor(step.expected["outputs"]["out"]["key"])
    assert_close(golden, clamped_sigmoid(step.inputs["pred"]), expected)


def test_every_group_is_checked():
    """No group of losses is left out for a name that is not registered."""
    kinds = ("loss", "cornernet")
    groups = {case["group"] for case in manifest() if case["kind"] in kinds}

    assert groups - {ERRORS} == {golden.case["group"] for golden in GOLDENS} - {ERRORS, "accuracy"}
