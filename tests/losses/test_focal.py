"""Focal losses where a stranger may stumble."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close

CUSTOM = {"type": "FocalCustomLoss", "num_classes": 3, "reduction": "none"}
GIVEN = torch.full((2, 3), 0.5)


def test_soft_probabilities_out_of_range_are_refused():
    """torch asserts that a target is a probability, on CUDA for good; here it is a refusal."""
    config = {"type": "FocalLoss", "activated": True, "reduction": "none"}
    target = torch.tensor([[0.0, 1.5, 0.0], [1.0, 0.0, 0.0]])

    with pytest.raises(losswire.errors.RequestError, match=r"target: probabilities .* given 1\.5"):
        answer(config, {"pred": GIVEN, "target": target})
    target[0, 1] = torch.nan
    loss = answer(config, {"pred": GIVEN, "target": target}).loss
    assert loss.isnan().tolist() == [[False, True, False], [False, False, False]]


def test_the_custom_form_reads_logits_and_indices_only():
    """It does not read `activated`, as upstream, and has no one-hot targets."""
    pred, target = 5 * GIVEN, torch.tensor([0, 3])
    plain = answer(CUSTOM, {"pred": pred, "target": target})
    activated = answer(CUSTOM | {"activated": True}, {"pred": pred, "target": target})
    usual = answer({"type": "FocalLoss", "reduction": "none"}, {"pred": pred, "target": target})

    assert_all_close(plain.loss, usual.loss)
    assert torch.equal(plain.loss, activated.loss)
    with pytest.raises(losswire.errors.RequestError, match=r"target: must be \[N\] class indices"):
        answer(CUSTOM, {"pred": pred, "target": GIVEN})


@pytest.mark.parametrize("name", ["FocalCustomLoss", "CrossEntropyCustomLoss"])
@pytest.mark.parametrize("given", [{}, {"num_classes": -1}])
def test_the_custom_forms_need_a_number_of_classes(name, given):
    """As upstream it must be given, though nothing reads it."""
    with pytest.raises(losswire.errors.RequestError, match=r"config\.num_classes: "):
        answer({"type": name} | given, {"pred": GIVEN, "target": torch.tensor([0, 1])})
