"""Losses a token: what a mask leaves out, and what a mean divides by."""

import math
from dataclasses import replace

import pytest
import torch

from lossserver.losses.tokens import TokenLoss
from lossserver.registry import LOSSES
from lossserver.tree import tensors
from tests.losses.calls import answer, assert_all_close, job_of, results
from tests.losses.cases.policy import CASES, MASK, tokens

B, T = 4, 4
MASKED = torch.tensor(MASK[:B])

every_form = pytest.mark.parametrize("case", CASES, ids=str)
every_mean = pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])


def normalized(config, normalization):
    """The config with that mean; the constant is 10."""
    constant = {"constant": 10.0} if normalization == "constant" else {"constant": None}
    return config | {"normalization": normalization} | constant


def masked(case):
    """A case's inputs with a mask."""
    return case.inputs(B) | {"mask": MASKED}


def blotted(inputs, value):
    """The inputs with a value wherever the mask is 0."""
    outside = inputs["mask"] == 0

    def blot(name, one):
        if name == "mask" or one.shape[:2] != outside.shape:
            return one
        return one.masked_fill(outside.view(B, T, *[1] * (one.dim() - 2)), value)

    return {name: blot(name, one) for name, one in inputs.items()}


@every_form
@every_mean
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_outside_the_mask_is_nothing(case, normalization, value):
    """Tokens outside the mask may hold anything: loss and gradients are as if they held 0, or 0."""
    config = normalized(case.config, normalization)
    inputs = masked(case)
    wrt = tuple(sorted(inputs.keys() - {"mask"}))
    clean = answer(config, blotted(inputs, 0.0), wrt=wrt)
    job = job_of(config, blotted(inputs, value), wrt=wrt)

    for found in (*results(job), *results(replace(job, rows=None))):
        assert_all_close(found.loss, clean.loss)
        for name in wrt:
            if clean.grads[name] is None:
                continue
            assert_all_close(found.grads[name], clean.grads[name])
            if found.grads[name].shape[:2] == (B, T):
                assert not found.grads[name][MASKED == 0].any()


@every_form
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float64], ids=str)
def test_a_mask_is_of_any_type(case, dtype):
    """Truth values, whole numbers and floats of 0 and 1 are the same mask."""
    inputs = masked(case)
    ours = answer(case.config, inputs | {"mask": MASKED.to(dtype)})

    assert_all_close(ours.loss, answer(case.config, inputs).loss)


@every_form
def test_means_divide_exactly(case):
    """Each mean is its own quotient of the rows, to the last bits of a float64: no EPS is added."""
    inputs = masked(case)
    rows = answer(case.config, inputs, reduction_override="none").loss
    wanted = {
        "token": rows.sum() / MASKED.sum(),
        "sequence": (rows.sum(1) / MASKED.sum(1)).mean(),
        "constant": rows.sum() / 10,
    }

    for normalization, value in wanted.items():
        ours = answer(normalized(case.config, normalization), inputs).loss
        assert_all_close(ours, value, rtol=1e-15, atol=0)


def test_without_a_mask_every_token_counts():
    """No mask is a mask of 1, whatever the mean."""
    inputs = tokens("old_logp", "ref_logp")(B)
    for ratio in ("token", "sequence"):
        for normalization in ("token", "sequence", "constant"):
            config = normalized({"type": "GRPOLoss", "ratio": ratio}, normalization)
            plain = answer(config, inputs)
            ones = answer(config, inputs | {"mask": torch.ones(B, T)})

            assert_all_close(plain.loss, ones.loss)
            assert_all_close(plain.grad, ones.grad)


def test_avg_factor_stands_in_for_the_divisor():
    """A trainer of many workers divides by the tokens or sequences of all, which it counted."""
    config = {"type": "PolicyGradientLoss"}
    inputs = tokens(mask=True)(B)
    rows = answer(config, inputs, reduction_override="none").loss
    wanted = {
        "token": rows.sum() / 100,
        "sequence": (rows.sum(1) / MASKED.sum(1)).sum() / 100,
        "constant": rows.sum() / 100,
    }

    for normalization, value in wanted.items():
        ours = answer(normalized(config, normalization), inputs, avg_factor=100.0).loss
        assert_all_close(ours, value, rtol=1e-15, atol=0)


@every_form
@every_mean
@pytest.mark.parametrize("avg_factor", [None, 0.0])
def test_the_mean_of_no_token_is_0(case, normalization, avg_factor):
    """A call whose tokens are all masked, as a filter may leave it, adds 0 to the training."""
    inputs = masked(case) | {"mask": torch.zeros(B, T)}
    result = answer(normalized(case.config, normalization), inputs, avg_factor=avg_factor)

    assert result.loss == 0
    for grad in tensors(result.grad):
        assert not grad.any()


def test_a_sequence_without_tokens_counts_as_one():
    """The mean over sequences is over all of them, as GRPO's over its group is."""
    inputs = tokens(mask=True)(B)
    config = {"type": "PolicyGradientLoss", "normalization": "sequence"}
    some = answer(config, {name: one[:2] for name, one in inputs.items()}).loss
    mask = MASKED.clone()
    mask[2:] = 0

    assert_all_close(answer(config, inputs | {"mask": mask}).loss, some * 2 / B)


def test_means_of_all_kinds_share_a_batch():
    """What a mean divides by is no part of the formula, so it keeps no two callers apart."""
    inputs = tokens("old_logp", mask=True)(B)
    config = {"type": "PPOClipLoss"}
    jobs = [
        job_of(normalized(config, normalization), inputs)
        for normalization in ("token", "sequence", "constant")
    ]

    assert len({job.key for job in jobs}) == 1
    for a, job in zip(results(*jobs), jobs, strict=True):
        assert_all_close(a.loss, results(job)[0].loss)


def test_a_long_mask_of_halves_is_counted_exactly():
    """4,097 tokens are so many, though neither float16 nor bfloat16 can count to it."""
    mask = torch.ones(1, 4097, dtype=torch.bfloat16)
    pred = torch.full((1, 4097), -0.5, dtype=torch.bfloat16)
    target = torch.ones(1, dtype=torch.bfloat16)
    for normalization in ("token", "sequence"):
        config = {"type": "PolicyGradientLoss", "normalization": normalization}
        ours = answer(config, {"pred": pred, "target": target, "mask": mask}).loss

        assert_all_close(ours, torch.tensor(0.5))


def test_tokens_of_no_sequence():
    """Packed tokens [N] give what the same tokens in one sequence give."""
    inputs = tokens("old_logp", "ref_logp")(1)
    config = {"type": "GRPOLoss", "normalization": "token"}
    packed = {name: one[0] for name, one in inputs.items()}

    assert_all_close(answer(config, packed).loss, answer(config, inputs).loss)
    assert_all_close(answer(config, packed).grad, answer(config, inputs).grad[0])


def test_every_loss_a_token_is_tested_here():
    """No loss a token is missing from the forms that this module runs through."""
    here = {case.config["type"] for case in CASES}

    assert here == {name for name in LOSSES if issubclass(LOSSES[name], TokenLoss)}
