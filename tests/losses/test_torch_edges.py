"""torch's losses at the ends of their domains, where it matters how they are computed."""

import pytest
import torch

from lossserver.registry import LOSSES
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import normal, whole
from tests.losses.cases import torch_binary, torch_sequences
from tests.losses.torch_modules import assert_as_torch, module_of


def test_probabilities_of_0_and_1():
    """At both ends the logarithm is -100 and the slope 1e12, as in torch."""
    inputs = {
        "pred": torch.tensor([0.0, 0, 1, 1, 0.5], dtype=torch.float64),
        "target": torch.tensor([0.0, 1, 0, 1, 1], dtype=torch.float64),
    }
    config = {"type": "torch.BCELoss", "reduction": "none"}
    assert_as_torch(config, inputs, ["pred", "target"], module_of(config))


@pytest.mark.parametrize("name", ["pred", "target"])
def test_a_probability_that_is_not_known(name):
    """A NaN is no reason to refuse a call, nor for a CUDA kernel to die: the loss is NaN there."""
    inputs = torch_binary.probabilities(2)
    clean = answer({"type": "torch.BCELoss"}, inputs, reduction_override="none")
    inputs[name][0, 1] = torch.nan
    found = answer({"type": "torch.BCELoss"}, inputs, reduction_override="none")

    assert found.loss[0, 1].isnan()
    assert torch.equal(found.loss[1], clean.loss[1])
    assert torch.equal(found.grad[1], clean.grad[1])


def test_a_margin_that_no_exponential_survives():
    """Where torch's exp overflows, ours is still the line that it approaches."""
    inputs = {"pred": torch.tensor([-1000.0]), "target": torch.tensor([1])}
    found = answer({"type": "torch.SoftMarginLoss"}, inputs)

    assert found.loss == 1000
    assert found.grad == -1


def test_a_huge_difference_has_a_slope():
    """A small beta or delta and a large difference make no 0 times infinity."""
    inputs = {"pred": torch.tensor([1e30]), "target": torch.tensor([0.0])}

    for config in ({"beta": 1e-12}, {"beta": 0.0}):
        assert answer({"type": "torch.SmoothL1Loss", **config}, inputs).grad == 1
    assert answer({"type": "torch.HuberLoss", "delta": 0.5}, inputs).grad == 0.5


def test_a_count_of_nothing_has_no_infinite_slope():
    """With Stirling's term, the gradient of a count of 0 is finite."""
    inputs = {"pred": normal(1), "target": torch.zeros(1, dtype=torch.float64)}
    grads = answer({"type": "torch.PoissonNLLLoss", "full": True}, inputs, wrt=("target",)).grads

    assert_all_close(grads["target"], -inputs["pred"])


def test_the_gradient_of_ctc_is_made_for_log_softmax():
    """Through a log_softmax it is the derivative by finite differences."""
    inputs = torch_sequences.sequences(2)
    loss = LOSSES.build({"type": "torch.CTCLoss"})
    rest = {name: value for name, value in inputs.items() if name != "pred"}
    logits = normal(4, 2, 3, seed=3).requires_grad_()

    def value(logits):
        return loss.formula(pred=logits.log_softmax(2), **rest)

    assert torch.autograd.gradcheck(value, [logits])


def test_a_weight_of_sequences_is_beside_their_lengths():
    """A mean divides by length and number, and a weight changes neither."""
    inputs = torch_sequences.sequences(3) | {"target_lengths": torch.tensor([0, 1, 2])}
    weight = torch.tensor([3.0, 0.5, 2.0], dtype=torch.float64)
    rows = answer({"type": "torch.CTCLoss", "reduction": "none"}, inputs).loss
    found = answer({"type": "torch.CTCLoss"}, inputs | {"weight": weight})

    assert_all_close(found.loss, (rows * weight / torch.tensor([1, 1, 2])).sum() / 3)


def test_labels_beyond_their_length_are_not_read():
    """Whatever pads a target changes nothing."""
    inputs = torch_sequences.sequences(3) | {"target_lengths": torch.tensor([1, 1, 2])}
    clean = answer({"type": "torch.CTCLoss"}, inputs)
    inputs["target"][0, 1], inputs["target"][1, 1] = -1, 10**12
    padded = answer({"type": "torch.CTCLoss"}, inputs)

    assert torch.equal(padded.loss, clean.loss)
    assert torch.equal(padded.grad, clean.grad)


def test_one_sequence_needs_no_dimension():
    """A lone sequence [T, C] gives what it gives among others."""
    inputs = torch_sequences.sequences(3)
    rows = answer({"type": "torch.CTCLoss", "reduction": "none"}, inputs).loss
    first = {"pred": inputs["pred"][:, 0]}
    first |= {n: inputs[n][0] for n in ("input_lengths", "target_lengths")}
    first["target"] = inputs["target"][0][: first["target_lengths"]]

    assert_all_close(answer({"type": "torch.CTCLoss", "reduction": "none"}, first).loss, rows[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        "L1Loss",
        "SmoothL1Loss",
        "HuberLoss",
        "KLDivLoss",
        "PoissonNLLLoss",
        "BCEWithLogitsLoss",
        "SoftMarginLoss",
        "MultiLabelSoftMarginLoss",
    ],
)
def test_whole_numbers_are_numbers(name, dtype):
    """A target of integers gives what the same numbers as floats give."""
    inputs = {"pred": normal(3, 2), "target": whole(3, 2, high=3).to(dtype)}
    floats = inputs | {"target": inputs["target"].double()}
    config = {"type": f"torch.{name}"} | ({"full": True} if "Poisson" in name else {})

    assert torch.equal(answer(config, inputs).loss, answer(config, floats).loss)
    assert torch.equal(answer(config, inputs).grad, answer(config, floats).grad)
