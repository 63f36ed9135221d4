"""Every golden case of a served loss once more in bfloat16: what rounding costs, and no more.

A gradient is rounded once, to 2^-8 of each element. Rounding pred is a call with
another pred; a loss is about as steep as it is large, but where it has an edge.
"""

import pytest
import torch
from torch import Tensor

from lossclient.terms import USUAL, Terms
from lossserver.tree import map_tensors
from tests.losses.golden import Golden
from tests.losses.test_golden import GOLDENS, TOLERANCE, by_upstreams_names, compute

BACK = Terms(wire_dtype={"grad": "bfloat16"})
BOTH_WAYS = Terms(wire_dtype="bfloat16")

#: Half a unit of the last of bfloat16's 8 bits.
STEP = 2.0**-8

#: Cases whose pred lies where the loss has an edge, or is far steeper than it is large.
STEEP = {
    "L1Loss/008-ties_and_beta_boundary": "pred equals the target, and does not when it is rounded",
    "BalancedL1Loss/008-ties_and_beta_boundary": "likewise",
    **dict.fromkeys(
        [f"{name}/008-identical" for name in ("IoULoss", "GIoULoss", "DIoULoss", "CIoULoss")]
        + ["SIoULoss/008-identical"],
        "likewise, of boxes",
    ),
    "IoULoss/002-sum_w-n_lw": "a box of 10 pixels in an image of 1,000 is rounded by 2 of them",
    "IoULoss/020-mode_linear": "likewise",
    "DIoULoss/002-sum_w-n_lw": "likewise",
    "BoundedIoULoss/003-none_w-n1_lw": "likewise",
    "CornerNet.parts/003-neg_loss": "the gradient of a logarithm near 0",
    "CornerNet.parts/004-neg_loss_no_positive": "likewise",
}


def reduced(golden: Golden) -> bool:
    """Whether the case is a call that is answered, in float32."""
    steps = list(golden.steps())
    return golden.run == "f32" and not any(step.expected.get("raises") for step in steps)


CASES = [golden for golden in GOLDENS if reduced(golden)]


def close(ours: Tensor, theirs: Tensor, rtol: float, atol: float) -> None:
    """Equal within that; the absolute part is times the largest value, or 1."""
    finite = theirs[theirs.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    torch.testing.assert_close(
        ours, theirs, rtol=rtol, atol=atol * scale, equal_nan=True, check_dtype=False
    )


def in_bfloat16(tree):
    """The tree as it arrives."""

    def rounded(leaf: Tensor) -> Tensor:
        return leaf.bfloat16().to(leaf.dtype) if leaf.dtype is torch.float32 else leaf

    return map_tensors(rounded, tree)


def compare(client, golden: Golden, terms: Terms, rtol: float, atol: float, of_grad: float) -> None:
    """Ask in those terms, and compare with upstream."""
    state = None
    for step in golden.steps():
        wanted = step.expected.get("grad_ones", {})
        result = compute(client, golden, step, wrt=step.wrt(wanted), state=state, terms=terms)
        state = result.state
        for name, value in by_upstreams_names(step, result.losses).items():
            close(value, golden.tensor(step.expected["outputs"][name]["key"]), rtol, atol)
        found = step.gradients(result.grads)
        for name, key in wanted.items():
            if key is not None:
                close(found[name], golden.tensor(key), of_grad, atol)


@pytest.mark.parametrize("golden", CASES, ids=str)
def test_gradients_in_bfloat16(client, golden):
    """Values are upstream's, as if nothing had been asked for; gradients are, within half a step."""
    rtol, atol = TOLERANCE["f32"]

    compare(client, golden, BACK, rtol, atol, rtol + STEP)


@pytest.mark.parametrize("golden", [g for g in CASES if g.case["id"] not in STEEP], ids=str)
def test_both_ways_in_bfloat16(client, golden):
    """Upstream's within what a pred of bfloat16 is held to, though all else is in float32."""
    rtol, atol = TOLERANCE["bf16"]

    compare(client, golden, BOTH_WAYS, rtol, atol, rtol)


@pytest.mark.parametrize("golden", [g for g in CASES if g.case["id"] in STEEP], ids=str)
def test_a_steep_loss_is_that_of_the_rounded_pred(client, golden):
    """Nothing but rounding happens to a call: it is the same with a pred that was rounded before."""
    for step in golden.steps():
        wrt = step.wrt(step.expected.get("grad_ones", {}))
        ours = compute(client, golden, step, wrt=wrt, terms=BOTH_WAYS)
        step.inputs["pred"] = in_bfloat16(step.inputs["pred"])
        theirs = compute(client, golden, step, wrt=wrt, terms=USUAL)

        rtol, atol = TOLERANCE["f32"]
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=rtol, atol=atol, equal_nan=True)
        torch.testing.assert_close(
            ours.grads, theirs.grads, rtol=rtol + STEP, atol=atol, equal_nan=True
        )
