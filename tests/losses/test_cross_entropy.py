"""The mask form of CrossEntropyLoss, which is reduced always and so is no row of cases/."""

import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import normal, sigmoid, uniform, whole

MASKS = {"type": "CrossEntropyLoss", "use_mask": True}


def masks(rows, *size):
    """Scores of 3 masks an object, soft masks, and the class of each object."""
    return {
        "pred": 2 * normal(rows, 3, *size),
        "target": uniform(rows, *size, seed=1),
        "weight": whole(rows, low=-3, high=2, seed=2),
    }


def mean_entropy(inputs, columns):
    """The mean binary cross entropy of each object's own mask, a number at a time."""
    total = count = 0
    for scores, mask, label in zip(*(one.tolist() for one in inputs.values()), strict=True):
        for score_row, row in zip(scores[label], mask, strict=True):
            for x, t, w in zip(score_row, row, columns, strict=True):
                p = sigmoid(x)
                total -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
                count += 1
    return total / count


@pytest.mark.parametrize("size", [(2, 3), (1, 3), (3, 1)])
def test_masks(size):
    """The mask of each object's class counts, a mask of one row among them."""
    inputs = masks(4, *size)
    result = answer(MASKS | {"loss_weight": 0.5}, inputs)

    assert_all_close(
        result.loss, torch.tensor([0.5 * mean_entropy(inputs, [1] * size[1])]).double()
    )
    other = torch.ones(4, 3, dtype=torch.bool)
    other[torch.arange(4), inputs["weight"]] = False
    assert result.grad[~other].any()
    assert not result.grad[other].any()


def test_class_weight_is_of_columns():
    """As upstream, class_weight broadcasts with the columns of a mask."""
    inputs, columns = masks(4, 2, 3), [0.5, 2.0, 3.0]
    result = answer(MASKS | {"class_weight": columns}, inputs)

    assert_all_close(result.loss, torch.tensor([mean_entropy(inputs, columns)]).double())


def test_upstream_gradient_of_one_number():
    """The loss is [1], and so is its upstream gradient; a scalar is refused when it is sent."""
    inputs = masks(4, 2, 3)
    one, two = (answer(MASKS, inputs, grad_output=torch.tensor([x])).grad for x in (1.0, 2.0))

    assert_all_close(two, 2 * one)
    with pytest.raises(losswire.errors.RequestError, match="grad_output: must be shaped"):
        answer(MASKS, inputs, grad_output=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("config", "change", "rule"),
    [
        ({}, {"avg_factor": 2.0}, "avg_factor: does not go with use_mask"),
        ({}, {"reduction_override": "sum"}, 'reduction_override: must be "mean"'),
        ({}, {"ignore_index": 3}, "ignore_index: does not go with use_mask"),
        ({}, {"weight": None}, "weight: must be one tensor"),
        ({}, {"weight": torch.zeros(4)}, "weight: indices must be of an integer type"),
        ({}, {"weight": torch.full((4,), 3)}, r"weight: an index must be in -3\.\.2; given 3"),
        ({}, {"weight": torch.zeros(4, 1, dtype=torch.int64)}, r"weight: must be class indices"),
        ({}, {"target": torch.zeros(4, 2)}, r"target: must be masks \[4, 2, 3\]"),
        ({}, {"pred": torch.zeros(4, 3)}, r"pred: must be \[N, C, H, W\]"),
        ({"class_weight": [1.0, 2.0]}, {}, "class_weight: must have one number, or 3"),
        ({"reduction": "none"}, {}, 'config.reduction: must be "mean"'),
        ({"ignore_index": 3}, {}, "config.ignore_index: does not go with use_mask"),
        ({"use_sigmoid": True}, {}, "config.use_mask: does not go with use_sigmoid"),
    ],
    ids=str,
)
def test_masks_refuse(config, change, rule):
    """What the mask form has not, and what does not fit it, is refused by name."""
    options = {k: v for k, v in change.items() if k in ("avg_factor", "reduction_override")}
    inputs = masks(4, 2, 3) | {k: v for k, v in change.items() if k not in options}
    inputs = {name: value for name, value in inputs.items() if value is not None}

    with pytest.raises(losswire.errors.RequestError, match=rule):
        answer(MASKS | config, inputs, **options)
