"""Policy losses: where a clip stops the gradient, what overflows, and what is refused."""

import math

import pytest
import torch

import losswire.errors
from lossserver.registry import LOSSES
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import normal
from tests.losses.cases.policy import tokens

B, T = 4, 4


def test_the_gradient_of_ppo_is_that_of_the_paper_s_minimum():
    """Autograd through min(r A, clip(r) A), and the maximum of it and c A, gives the same gradient."""
    inputs = tokens("old_logp", apart=1.0)(500)
    pred = inputs["pred"].clone().requires_grad_()
    a, r = inputs["target"], (pred - inputs["old_logp"]).exp()
    least = torch.minimum(r * a, r.clamp(0.8, 1.28) * a)
    least = torch.where(a < 0, torch.maximum(least, 3 * a), least)
    (expected,) = torch.autograd.grad(-least.mean(), pred)
    config = {"type": "PPOClipLoss", "clip_high": 0.28, "dual_clip": 3.0}
    ours = answer(config, inputs)

    assert_all_close(ours.loss, -least.mean().detach(), rtol=1e-13, atol=0)
    assert_all_close(ours.grad, expected, rtol=1e-13, atol=1e-18)


def test_on_policy_the_gradient_is_the_plain_one():
    """Where the policy is the one that sampled, all ratios are 1 and their gradient is -A."""
    inputs = tokens()(B)
    inputs |= {"old_logp": inputs["pred"], "ref_logp": inputs["pred"]}
    for config in (
        {"type": "PPOClipLoss", "beta": 1.0},
        {"type": "GRPOLoss", "normalization": "token"},
        {"type": "ImportanceSamplingLoss"},
        {"type": "CISPOLoss", "clip_high": 0.2},
    ):
        given = inputs if "ref_logp" in LOSSES[config["type"]].TAKES else drop(inputs, "ref_logp")
        grad = answer(config, given, reduction_override="sum").grad

        assert_all_close(grad, -inputs["target"])


def drop(inputs, *names):
    """The inputs without those."""
    return {name: one for name, one in inputs.items() if name not in names}


def test_cispo_weighs_every_token():
    """The gradient is the clipped ratio times -A, within the clip and beyond; none reaches old_logp."""
    inputs = tokens("old_logp", apart=1.0)(50)
    ratio = (inputs["pred"] - inputs["old_logp"]).exp()
    config = {"type": "CISPOLoss", "clip_high": 0.5, "reduction": "sum"}
    result = answer(config, inputs, wrt=("pred", "old_logp"))

    assert_all_close(result.grad, -ratio.clamp(max=1.5) * inputs["target"])
    assert result.grads["old_logp"] is None


def lone(log_ratio, advantage, **others):
    """One token of float32, of so much a log-ratio."""
    made = {"pred": log_ratio, "target": advantage, "old_logp": 0.0} | others
    return {name: torch.tensor([value], dtype=torch.float32) for name, value in made.items()}


def test_a_clipped_ratio_does_not_overflow():
    """Beyond the clip a log-ratio of any size has the clip's loss and no gradient."""
    for log_ratio, advantage, loss in ((1e3, 2.0, -2.4), (math.inf, 2.0, -2.4), (-1e3, -2.0, 1.6)):
        result = answer({"type": "PPOClipLoss"}, lone(log_ratio, advantage))

        assert_all_close(result.loss, torch.tensor(loss))
        assert result.grad.item() == 0
    dual = answer({"type": "PPOClipLoss", "dual_clip": 3.0}, lone(1e3, -2.0))

    assert_all_close(dual.loss, torch.tensor(6.0))
    assert dual.grad.item() == 0
    assert answer({"type": "PPOClipLoss"}, lone(1e3, 0.0)).grad.item() == 0


def test_nothing_else_is_clamped():
    """A ratio that nothing clips overflows openly: a silent clamp would hide a run gone astray."""
    assert answer({"type": "PPOClipLoss"}, lone(1e3, -2.0)).loss == math.inf
    assert answer({"type": "ImportanceSamplingLoss"}, lone(1e3, -2.0)).loss == math.inf
    penalised = answer({"type": "PPOClipLoss", "beta": 0.1}, lone(0.0, 1.0, ref_logp=1e3))

    assert penalised.loss == math.inf


def test_the_reference_is_not_read_at_a_beta_of_0():
    """A reference of NaN does no harm to a loss that has no penalty."""
    result = answer({"type": "PPOClipLoss"}, lone(0.1, 1.0, ref_logp=math.nan))

    assert result.loss.isfinite()
    assert result.grad.isfinite().all()


def test_a_value_that_strayed_is_drawn_back_but_not_pushed_on():
    """Beyond the clip the gradient is 0 where the value overshot towards the return, else not."""
    inputs = {"target": [3.0, -3.0], "pred": [1.0, 1.0], "old_values": [0.0, 0.0]}
    inputs = {name: torch.tensor(one) for name, one in inputs.items()}
    result = answer({"type": "ValueClipLoss", "reduction": "sum"}, inputs)

    assert_all_close(result.grad, torch.tensor([0.0, 4.0]))


def test_a_token_that_may_not_be_taken_has_no_entropy():
    """A logit of -inf adds nothing, and gets a gradient of exactly 0."""
    pred = torch.tensor([[1.0, 2.0, -math.inf, 0.5]])
    allowed = pred[:, [0, 1, 3]]
    ours = answer({"type": "EntropyLoss"}, {"pred": pred})
    without = answer({"type": "EntropyLoss"}, {"pred": allowed})

    assert_all_close(ours.loss, without.loss)
    assert_all_close(ours.grad[:, [0, 1, 3]], without.grad)
    assert ours.grad[0, 2] == 0


def test_the_sign_of_the_entropy():
    """The most even policy has the least loss, -log V; a sure one has 0, to float32's last bit."""
    even = answer({"type": "EntropyLoss"}, {"pred": torch.zeros(3, 8)})
    sure = answer({"type": "EntropyLoss"}, {"pred": torch.tensor([[1e30, 0.0], [200.0, 0.0]])})

    assert_all_close(even.loss, torch.tensor(-math.log(8)))
    assert sure.loss == 0
    assert not sure.grad.any()


def test_one_silent_token_of_nan_logits_stays_alone():
    """An upstream gradient of 0 on a NaN token leaves the others of its sequence theirs."""
    pred = normal(2, 3, 5)
    pred[0, 1] = math.nan
    upstream = torch.ones(2, 3, dtype=torch.float64)
    upstream[0, 1] = 0
    result = answer(
        {"type": "EntropyLoss", "reduction": "none"}, {"pred": pred}, grad_output=upstream
    )

    assert not result.grad[0, 1].any()
    assert result.grad.isfinite().all()
    assert result.grad[0, 0].any()


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        ({"normalization": "constant"}, {}, "config.constant: must be a number above 0"),
        ({"constant": 3.0}, {}, 'config.constant: goes with normalization "constant" only'),
        ({"normalization": "batch"}, {}, "config.normalization: must be one of token, sequence"),
        ({"clip_low": -0.1}, {}, "config.clip_low: must be at least 0"),
        ({"clip_high": math.nan}, {}, "config.clip_high: must be at least 0"),
        ({"dual_clip": 1.0}, {}, "config.dual_clip: must be above 1"),
        ({"kl_estimator": "k4"}, {}, "config.kl_estimator: must be one of k1, k2, k3"),
        ({"beta": 0.1}, {}, "ref_logp: is needed with a beta of 0.1"),
        ({"beta": 0.1}, {"ref_logp": torch.zeros(B)}, "ref_logp: must be shaped like pred"),
        ({}, {"mask": torch.full((B, T), 0.5)}, "mask: must hold 0 and 1 only; given 0.5"),
        ({}, {"mask": torch.full((B, T), math.nan)}, "mask: must hold 0 and 1 only; given nan"),
        ({}, {"mask": torch.ones(B)}, r"mask: must be a number a token, \[4, 4\]; given \[4\]"),
        ({}, {"target": torch.ones(B, 1)}, r"target: must be shaped .*, or be \[4\], a number a"),
        ({}, {"target": torch.ones(B, T).long()}, "target: must be floating point"),
        ({}, {"old_logp": torch.zeros(B)}, "old_logp: must be shaped like pred"),
        ({}, {"pred": torch.zeros(B, T, 2)}, r"pred: must be \[B, T\] or \[N\]"),
        ({}, {"weight": torch.ones(B)}, "inputs: PPOClipLoss takes the inputs"),
    ],
)
def test_what_ppo_refuses(config, change, said):
    """A wrong parameter or input is named, with the rule it breaks."""
    with pytest.raises(losswire.errors.RequestError, match=said):
        answer({"type": "PPOClipLoss"} | config, tokens("old_logp")(B) | change)


def test_sequences_are_needed_where_they_are_spoken_of():
    """Packed tokens [N] have neither a mean nor a ratio a sequence."""
    packed = {name: one[0] for name, one in tokens("old_logp", "ref_logp")(1).items()}
    for config in ({}, {"normalization": "token", "ratio": "sequence"}):
        with pytest.raises(losswire.errors.RequestError, match="must hold sequences"):
            answer({"type": "GRPOLoss"} | config, packed)


def test_cispo_needs_its_bound():
    """The paper gives no number, so there is no default."""
    with pytest.raises(losswire.errors.RequestError, match="clip_high: CISPOLoss needs"):
        answer({"type": "CISPOLoss"}, tokens("old_logp")(B))
