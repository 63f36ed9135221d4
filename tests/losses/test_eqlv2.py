"""What equalization loss v2 remembers, and what it does not look at."""

import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import sigmoid
from tests.losses.cases.eqlv2 import STATE, detected

CONFIG = {"type": "EQLV2Loss", "num_classes": 3}


def by_hand(pred, target, ratios, alpha=4.0, gamma=12.0, mu=0.8):
    """The loss, and the two sums of gradients of each class, in scalars."""
    f = [1 / (1 + math.exp(-gamma * (r - mu))) for r in ratios] + [1.0]
    loss, sums = 0.0, {"pos_grad": [0.0] * 3, "neg_grad": [0.0] * 3}
    for row, label in zip(pred.tolist(), target.tolist(), strict=True):
        for c, x in enumerate(row):
            right = sigmoid(x) if c == label else 1 - sigmoid(x)
            weight = 1 + alpha * (1 - f[c]) if c == label else f[c]
            loss -= weight * math.log(right)
            if c < 3:
                sums["pos_grad" if c == label else "neg_grad"][c] += weight * (1 - right)
    return loss / len(pred), sums


def test_weights_come_from_the_calls_before():
    """Each call is weighted by the state it was sent, and adds its own gradients to the next one's."""
    inputs = detected(8)
    result = answer(CONFIG, inputs, state=STATE)
    loss, sums = by_hand(inputs["pred"], inputs["target"], STATE["pos_neg"].tolist())

    # f is of float32.
    assert_all_close(float(result.loss), loss, rtol=1e-6, atol=0)
    for name, own in sums.items():
        assert result.state[name].dtype is torch.float32
        assert_all_close(result.state[name], STATE[name] + torch.tensor(own), rtol=1e-5, atol=0)
    ratio = result.state["pos_grad"] / result.state["neg_grad"]
    assert_all_close(result.state["pos_neg"], ratio)


def test_what_has_no_effect():
    """Upstream looks at no weight, avg_factor or reduction, and neither does this."""
    inputs = detected(4)
    bare = answer(CONFIG, inputs)
    odd = CONFIG | {"reduction": "none", "class_weight": [1.0], "use_sigmoid": False}
    full = answer(
        odd,
        inputs | {"weight": torch.zeros(7)},
        avg_factor=17.0,
        reduction_override="banana",
    )

    assert_all_close(full.loss, bare.loss)
    assert_all_close(full.grad, bare.grad)


def test_labels_below_zero():
    """They count from the end, as upstream: -1 is background. Beyond both ends they are refused."""
    inputs = detected(4)
    back = inputs | {"target": inputs["target"] - 4}

    assert_all_close(answer(CONFIG, back).loss, answer(CONFIG, inputs).loss)
    for label in (-5, 4):
        with pytest.raises(losswire.errors.RequestError, match="target: a class index must be"):
            answer(CONFIG, inputs | {"target": torch.full((4,), label)})


@pytest.mark.parametrize(("field", "given"), [("num_classes", 10**12), ("use_distributed", True)])
def test_parameters_that_cannot_be_served(field, given):
    """A state that was never sent is not made, and nobody is waited for."""
    with pytest.raises(losswire.errors.RequestError, match=f"config.{field}: must be"):
        answer({"type": "EQLV2Loss", field: given}, detected(2))
