"""Keypoints: what is not labelled, and what is far off."""

import pytest
import torch

from losswire.errors import SpecError, TensorError
from tests.losses.calls import answer, job_of
from tests.losses.cases.pose import poses


def test_a_keypoint_without_a_label_may_hold_anything():
    """Where nothing is visible, NaN is not looked at, and has no gradient."""
    inputs = poses(17)(3)
    hidden = inputs["visible"] == 0
    odd = inputs["pred"].masked_fill(hidden.unsqueeze(2), torch.nan)
    clean, found = (
        answer({"type": "OKSLoss"}, inputs),
        answer({"type": "OKSLoss"}, inputs | {"pred": odd}),
    )

    assert hidden.any()
    assert torch.equal(clean.loss, found.loss)
    assert torch.equal(clean.grad, found.grad)


def test_an_object_without_an_area_has_a_gradient():
    """Area 0 divides nothing by 0: what fits it costs 0, and what does not costs 1."""
    target = torch.zeros(2, 1, 2)
    pred = torch.tensor([[[0.0, 0]], [[1.0, 0]]])
    inputs = {"pred": pred, "target": target, "area": torch.zeros(2)}
    result = answer({"type": "OKSLoss", "sigmas": [0.1]}, inputs, reduction_override="none")

    assert result.loss.tolist() == [0, 1]
    assert not result.grad.any()


def test_small_distances_keep_their_precision():
    """In float32 the loss of a pose that is nearly right is not rounded to a few digits."""
    target = torch.zeros(1, 1, 2)
    inputs = {"pred": target + 1e-3, "target": target, "area": torch.ones(1) * 1e4}
    config = {"type": "OKSLoss", "sigmas": [0.1]}
    wide = {name: value.double() for name, value in inputs.items()}

    torch.testing.assert_close(
        answer(config, inputs).loss.double(), answer(config, wide).loss, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("far", [1e20, -1e20, 3e38])
def test_adaptive_wing_is_a_line_however_far(far):
    """A distance whose power overflows has the slope of the line, and not NaN."""
    pred = torch.tensor([[far, 5.0]])
    inputs = {"pred": pred, "target": torch.tensor([[0.5, 0.5]])}
    grad = answer({"type": "AdaptiveWingLoss"}, inputs, reduction_override="none").grad

    torch.testing.assert_close(grad[0, 0].abs(), grad[0, 1])


def test_adaptive_wing_is_flat_where_it_is_right():
    """At the target the slope is 0, at a peak as in the background."""
    y = torch.tensor([[0.0, 0.4, 1.0]])
    result = answer({"type": "AdaptiveWingLoss"}, {"pred": y, "target": y}, wrt=("pred", "target"))

    assert float(result.loss) == 0
    assert not result.grads["pred"].any()
    assert not result.grads["target"].any()


def test_keypoints_and_sigmas_go_together():
    """COCO's sigmas stand for 17 keypoints alone; others must be sent."""
    inputs = poses(5)(2)
    with pytest.raises(TensorError, match="must have K = 17 keypoints, one a sigma"):
        job_of({"type": "OKSLoss"}, inputs)
    with pytest.raises(TensorError, match="area: must be at least 0"):
        job_of({"type": "OKSLoss", "sigmas": [0.1] * 5}, inputs | {"area": -inputs["area"]})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "OKSLoss", "sigmas": [0.1, 0.0]}, r"sigmas\[1\]: must be above 0"),
        ({"type": "WingLoss", "epsilon": 0}, "epsilon: must be above 0"),
        ({"type": "AdaptiveWingLoss", "alpha": 1.5}, "alpha: must be at least 2"),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(config, message):
    """The refusal names the parameter."""
    with pytest.raises(SpecError, match=message):
        job_of(config, poses(2)(1))
