"""GaussianFocalLoss with places, whose two parts are reduced apart: it is no row of cases/."""

import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import uniform

HEAT = {"type": "GaussianFocalLoss", "pos_weight": 0.7, "neg_weight": 1.4}


def peaks(*places):
    """Probabilities and a heat map [4, 3], and peaks at (row, class)."""
    return {
        "pred": 0.05 + 0.9 * uniform(4, 3),
        "target": uniform(4, 3, seed=1),
        "pos_inds": torch.tensor([row for row, _ in places], dtype=torch.int64),
        "pos_labels": torch.tensor([label for _, label in places], dtype=torch.int32),
    }


def parts(inputs):
    """The losses of the peaks, and those of every element, a number at a time."""
    p, t = inputs["pred"].tolist(), inputs["target"].tolist()
    places = zip(inputs["pos_inds"].tolist(), inputs["pos_labels"].tolist(), strict=True)
    return [-0.7 * (1 - p[i][c]) ** 2 * math.log(p[i][c]) for i, c in places], [
        [-1.4 * (1 - b) ** 4 * a**2 * math.log(1 - a) for a, b in zip(*rows, strict=True)]
        for rows in zip(p, t, strict=True)
    ]


@pytest.mark.parametrize("places", [[(0, 1), (3, 2)], [(2, 0), (2, 0), (-1, 1)]])
def test_each_part_has_its_mean(places):
    """A mean is one over the places plus one over all elements; avg_factor divides both."""
    inputs = peaks(*places)
    near, far = parts(inputs)
    mean = sum(near) / len(near) + sum(map(sum, far)) / 12
    by_two = (sum(near) + sum(map(sum, far))) / (2 + torch.finfo(torch.float32).eps)

    assert_all_close(answer(HEAT, inputs).loss, torch.tensor(mean).double())
    assert_all_close(answer(HEAT, inputs, avg_factor=2.0).loss, torch.tensor(by_two).double())


@pytest.mark.parametrize("places", [[(1, 2)], [(0, 1), (3, 2), (0, 1), (1, 0)]])
def test_unreduced_parts_broadcast(places):
    """Unreduced, [M, 1] and [N, C] are added, for one place or as many as there are rows."""
    inputs = peaks(*places)
    near, far = (torch.tensor(part).double() for part in parts(inputs))
    upstream = uniform(4, 3, seed=3)
    options = {"reduction_override": "none", "grad_output": upstream}

    assert_all_close(answer(HEAT, inputs, **options).loss, near.view(-1, 1) + far)


def test_gradient_is_the_derivative():
    """The gradient is that of finite differences, also where two peaks share a place."""
    inputs = peaks((2, 0), (2, 0), (-1, 1))
    grad, step = answer(HEAT, inputs).grad, 1e-6
    for i, c in [(2, 0), (3, 1), (1, 1)]:
        ends = []
        for sign in (1, -1):
            pred = inputs["pred"].clone()
            pred[i, c] += sign * step
            ends.append(float(answer(HEAT, inputs | {"pred": pred}).loss))

        assert float(grad[i, c]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_no_place_has_no_mean():
    """The mean over no places is NaN, as upstream; their sum is 0."""
    inputs = peaks()
    far = sum(map(sum, parts(inputs)[1]))

    assert answer(HEAT, inputs).loss.isnan()
    total = answer(HEAT, inputs, reduction_override="sum").loss
    assert_all_close(total, torch.tensor(far).double())


def test_weights_are_not_read_with_places():
    """As upstream, a weight does nothing there, and has no gradient."""
    inputs = peaks((0, 1))
    result = answer(HEAT, inputs | {"weight": torch.zeros(7)}, wrt=("pred", "weight"))

    assert torch.equal(result.loss, answer(HEAT, inputs).loss)
    assert result.grads["weight"] is None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"pos_labels": None}, "pos_labels: must be one tensor"),
        ({"pos_inds": torch.tensor([4, 0])}, r"pos_inds: an index must be in -4\.\.3; given 4"),
        ({"pos_labels": torch.tensor([0, -1])}, r"pos_labels: an index must be in 0\.\.2"),
        ({"pos_labels": torch.tensor([0])}, r"pos_labels: must be shaped like pos_inds, \[2\]"),
        ({"pos_inds": torch.tensor(1)}, r"pos_inds: must be \[M\]"),
        ({"pos_inds": torch.tensor([True, False])}, "pos_inds: indices must be of an integer"),
        ({"target": torch.zeros(4)}, r"target: must be shaped like pred"),
        ({"pred": torch.zeros(4, 3, 1)}, r"pred: must be \[N, C\] with pos_inds"),
    ],
    ids=str,
)
def test_places_refuse(change, rule):
    """Places that do not fit are refused by name."""
    inputs = {k: v for k, v in (peaks((0, 1), (3, 2)) | change).items() if v is not None}

    with pytest.raises(losswire.errors.RequestError, match=rule):
        answer(HEAT, inputs)


def test_unreduced_places_must_broadcast():
    """Two places and four rows have no sum."""
    with pytest.raises(losswire.errors.RequestError, match="pos_inds: must broadcast with pred"):
        answer(HEAT, peaks((0, 1), (3, 2)), reduction_override="none")
