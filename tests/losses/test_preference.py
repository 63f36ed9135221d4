"""Losses of preferences: at the ends, at their minima, and what they refuse."""

import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases.preference import judged, pairs


def pair(chosen, rejected, dtype=torch.float64):
    """One pair."""
    return {
        "chosen": torch.tensor([chosen], dtype=dtype),
        "rejected": torch.tensor([rejected], dtype=dtype),
    }


def test_a_policy_that_is_the_reference():
    """DPO starts at log 2, and draws the chosen answer up as much as the rejected one down."""
    both = pair(-3.0, -5.0)
    result = answer({"type": "DPOLoss", "beta": 0.3}, {"pred": both, "ref_logp": both})

    assert_all_close(result.loss, torch.tensor(math.log(2), dtype=torch.float64))
    assert_all_close(result.grad, pair(-0.15, 0.15))


@pytest.mark.parametrize(("margin", "loss", "slope"), [(1e4, 0.0, 0.0), (-1e4, 1e3, -0.1)])
def test_dpo_far_out(margin, loss, slope):
    """A sure margin has no loss, a sure mistake a straight one: nothing overflows in float32."""
    inputs = {"pred": pair(margin, 0.0, torch.float32)}
    result = answer({"type": "DPOLoss", "reference_free": True}, inputs)

    assert_all_close(result.loss, torch.tensor(loss))
    assert_all_close(result.grad["chosen"], torch.tensor([slope]))


def test_an_impossible_rejected_answer_costs_nothing():
    """A log-probability of -inf for the rejected answer gives 0, not NaN."""
    inputs = {"pred": pair(-1.0, -math.inf)}
    result = answer({"type": "DPOLoss", "reference_free": True}, inputs)

    assert result.loss == 0
    assert result.grad["chosen"] == 0


def test_an_impossible_chosen_answer_costs_all():
    """A log-probability of -inf for the chosen answer is infinitely bad, smoothed labels or not."""
    inputs = {"pred": pair(-math.inf, -1.0)}
    for smoothing in (0.0, 0.1):
        config = {"type": "DPOLoss", "reference_free": True, "label_smoothing": smoothing}
        result = answer(config, inputs)

        assert result.loss == math.inf
        assert_all_close(result.grad["rejected"], pair(0, 0.1 * (1 - smoothing))["rejected"])


def test_label_smoothing_has_a_best_margin():
    """With a share s of labels wrong, the least loss is where σ(β h) = 1 - s, and it is their entropy."""
    best = math.log(0.8 / 0.2) / 0.1
    config = {"type": "DPOLoss", "label_smoothing": 0.2, "reference_free": True}
    result = answer(config, {"pred": pair(best, 0.0)})
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)

    assert_all_close(result.loss, torch.tensor(entropy, dtype=torch.float64))
    assert abs(result.grad["chosen"]) < 1e-12


def test_ipo_s_margin_is_met():
    """The loss is 0 where the margin is 1 / (2 β), and grows on either side."""
    even = pair(0.0, 0.0)
    losses = [
        float(answer({"type": "IPOLoss"}, {"pred": pair(h, 0.0), "ref_logp": even}).loss)
        for h in (4.0, 5.0, 6.0)
    ]

    assert losses == [1, 0, 1]


def test_kto_s_point_may_be_one_number():
    """A scalar reference point gives what the same number for each answer gives."""
    inputs = judged(5)
    for point in (0.7, -0.7):
        one = answer({"type": "KTOLoss"}, inputs | {"kl": torch.tensor(point)})
        each = answer({"type": "KTOLoss"}, inputs | {"kl": torch.full((5,), point)})

        assert_all_close(one.loss, each.loss)
        assert_all_close(one.grad, each.grad)


def test_kto_s_point_is_not_below_0():
    """A KL is not negative, so an estimate that is counts as 0."""
    inputs = judged(5)
    below = answer({"type": "KTOLoss"}, inputs | {"kl": torch.tensor(-3.0)})
    none = answer({"type": "KTOLoss"}, inputs | {"kl": torch.tensor(0.0)})

    assert_all_close(below.loss, none.loss)


def test_kto_far_out():
    """An infinite gain or loss has a loss of 0 or λ, and no gradient."""
    pred = torch.tensor([math.inf, -math.inf, 1e30, -1e30])
    inputs = {"pred": pred, "target": torch.ones(4, dtype=torch.bool), "ref_logp": torch.zeros(4)}
    result = answer({"type": "KTOLoss", "reduction": "none"}, inputs | {"kl": torch.zeros(4)})

    assert_all_close(result.loss, torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert not result.grad.any()


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        ({"beta": 0.0}, {}, "config.beta: must be above 0"),
        ({"label_smoothing": 0.5}, {}, r"config.label_smoothing: must be in \[0, 0.5\)"),
        ({}, {"ref_logp": None}, "ref_logp: is needed without reference_free"),
        ({"reference_free": True}, {}, "ref_logp: goes without reference_free"),
        ({}, {"pred": torch.zeros(3, 2)}, "pred: must be .*; given Tensor"),
        ({}, {"pred": {"chosen": torch.zeros(3)}}, r"pred: must be .*; given \['chosen'\]"),
        ({}, {"pred": {"chosen": torch.zeros(3), "rejected": 3}}, "pred.rejected: must be one te"),
        ({}, {"pred": pair(0, 0, torch.int64)}, "pred.chosen: must be floating point"),
        (
            {},
            {"pred": {k: torch.zeros(3, 2) for k in pairs(3)["pred"]}},
            r"pred.chosen: must be \[N",
        ),
        ({}, {"ref_logp": pairs(2)["pred"]}, r"ref_logp: must be two of pred's shape, \[3\]"),
    ],
)
def test_what_dpo_refuses(config, change, said):
    """A wrong parameter or input is named, with the rule it breaks."""
    inputs = {name: one for name, one in (pairs(3) | change).items() if one is not None}
    with pytest.raises(losswire.errors.RequestError, match=said):
        answer({"type": "DPOLoss"} | config, inputs, wrt=())


@pytest.mark.parametrize(
    ("config", "change", "said"),
    [
        ({"desirable_weight": -1.0}, {}, "config.desirable_weight: must be at least 0"),
        ({}, {"target": torch.ones(5)}, "target: must be bool or integer"),
        ({}, {"target": torch.full((5,), -1)}, "target: must hold 0 and 1 only; given -1"),
        ({}, {"kl": torch.zeros(1)}, r"kl: must be a scalar or shaped like pred, \[5\]"),
        ({}, {"pred": torch.zeros(5, 1)}, r"pred: must be \[N\]"),
    ],
)
def test_what_kto_refuses(config, change, said):
    """A wrong parameter or input is named, with the rule it breaks."""
    with pytest.raises(losswire.errors.RequestError, match=said):
        answer({"type": "KTOLoss"} | config, judged(5) | change)
