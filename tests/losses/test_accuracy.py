"""Accuracy at its edges."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer

SCORES = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, torch.nan]])


def accuracies(topk, pred, target, **config):
    """What Accuracy gives, as numbers by name."""
    given = {"type": "Accuracy", "topk": topk} | config
    result = answer(given, {"pred": pred, "target": target})
    assert result.grad is None
    return {name: value.tolist() for name, value in result.losses.items()}


def test_outputs_are_named_after_k():
    """One k or several, each has an output of its own; NaN is the highest score."""
    assert accuracies(1, SCORES, torch.tensor([1, 0])) == {"top1": [50]}
    assert accuracies([1, 2], SCORES, torch.tensor([1, 0])) == {"top1": [50], "top2": [100]}


def test_a_class_that_is_none_is_never_right():
    """Background and ignored rows count, as wrong, and so does a score not above the threshold."""
    assert accuracies(3, SCORES, torch.tensor([3, -1])) == {"top3": [0]}
    assert accuracies(3, SCORES, torch.tensor([1, 1]), thresh=0.3) == {"top3": [50]}


def test_no_rows():
    """No rows at all give 0, even for a k above the number of classes, as upstream."""
    assert accuracies([1, 5], SCORES[:0], torch.zeros(0).long()) == {"top1": 0, "top5": 0}


@pytest.mark.parametrize("topk", [0, -1, [], [1, 0], 4])
def test_a_k_without_meaning_is_refused(topk):
    """Every k is at least 1, and at most the number of classes."""
    with pytest.raises(losswire.errors.RequestError, match=r"config\.topk: must be"):
        accuracies(topk, SCORES, torch.zeros(2).long())


def test_a_metric_takes_no_upstream_gradient_of_another_name():
    """The names of the outputs follow from the config."""
    inputs = {"pred": SCORES, "target": torch.zeros(2).long()}

    with pytest.raises(
        losswire.errors.RequestError, match="the outputs of Accuracy are top1, top2"
    ):
        answer({"type": "Accuracy", "topk": [2, 1]}, inputs, grad_output=torch.zeros(()))
