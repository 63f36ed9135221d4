"""Losses of boxes: weights, short cuts, and the edges where upstream's conventions show."""

import pytest
import torch

from losswire.errors import RequestError
from tests.losses.calls import answer, assert_all_close, job_of, results
from tests.losses.cases.iou import boxes, near

OVERLAPS = ["IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss", "SIoULoss"]

every_overlap = pytest.mark.parametrize("name", OVERLAPS)


@every_overlap
def test_a_weight_of_coordinates_counts_as_its_mean(name):
    """An [N, 4] weight is worth its mean over each box, and has a quarter of that one's gradient."""
    inputs, weight = boxes(3), torch.rand(3, 4, dtype=torch.float64)
    config, wrt = {"type": name}, ("pred", "weight")
    mean = answer(config, inputs | {"weight": weight.mean(1)}, wrt=wrt)
    job = job_of(config, inputs | {"weight": weight}, wrt=wrt)

    for full in results(job, job):
        assert_all_close(full.loss, mean.loss)
        assert_all_close(full.grads["pred"], mean.grads["pred"])
        quarter = mean.grads["weight"].unsqueeze(1).expand(3, 4) / 4
        assert_all_close(full.grads["weight"], quarter)


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (4, 3), (1, 4), (3, 4, 1)], ids=str)
@every_overlap
def test_weights_of_other_shapes_are_refused(name, shape):
    """A weight of more than one dimension is shaped like the boxes."""
    with pytest.raises(RequestError, match="weight: must be"):
        answer({"type": name}, boxes(3) | {"weight": torch.ones(shape)})


@pytest.mark.parametrize("name", [*OVERLAPS, "BoundedIoULoss"])
def test_where_nothing_is_above_zero_the_short_cut_is_taken(name):
    """Weights that are all negative give Σ pred · weight; unreduced too, but for IoULoss."""
    inputs = boxes(3) | {"weight": torch.tensor([-1.0, 0.0, -2.0], dtype=torch.float64)}
    short = (inputs["pred"] * inputs["weight"].unsqueeze(1)).sum()
    mean = answer({"type": name, "loss_weight": 3.0}, inputs, avg_factor=7.0)

    assert_all_close(mean.loss, short)
    if name == "IoULoss":
        assert answer({"type": name, "reduction": "none"}, inputs).loss.shape == (3,)
    else:
        assert_all_close(answer({"type": name, "reduction": "none"}, inputs).loss, short)


def test_equal_boxes_are_nan_in_float32_complete_iou():
    """CIoULoss of equal float32 boxes is NaN as upstream, 0 where it weighs 0, and 0 in float64."""
    box = torch.tensor([[10.0, 20.0, 60.0, 90.0]])
    same = {"pred": box, "target": box}
    weighted = {name: value.repeat(2, 1) for name, value in same.items()}
    weighted["target"] = weighted["target"] + torch.tensor([[0.0], [1.0]])
    silent = answer({"type": "CIoULoss"}, weighted | {"weight": torch.tensor([0.0, 1.0])})
    exact = answer({"type": "CIoULoss"}, {name: value.double() for name, value in same.items()})

    assert answer({"type": "CIoULoss"}, same).loss.isnan()
    assert silent.loss.isfinite()
    assert not silent.grad[0].any()
    assert abs(float(exact.loss)) < 1e-8


def test_a_shared_edge_gets_half_of_the_gradient():
    """Where edges coincide the gradient is halfway between those of either side."""
    pred = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
    target = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=torch.float64)
    config = {"type": "IoULoss", "mode": "linear"}
    grads = [
        answer(config, {"pred": pred + torch.tensor([shift, 0, 0, 0]), "target": target}).grad[0, 0]
        for shift in (-1e-9, 0.0, 1e-9)
    ]

    # IoU 4/16; outside its slope is -4 · 2/256, inside 2 · 16/256.
    assert_all_close(grads[0], torch.tensor(-8 / 256, dtype=torch.float64), rtol=1e-6, atol=0)
    assert_all_close(grads[2], torch.tensor(32 / 256, dtype=torch.float64), rtol=1e-6, atol=0)
    assert_all_close(grads[1], (grads[0] + grads[2]) / 2, rtol=1e-6, atol=0)


def test_the_bounded_target_has_no_gradient():
    """BoundedIoULoss takes its target as given."""
    assert answer({"type": "BoundedIoULoss"}, near(3), wrt=("target",)).grads["target"] is None


def test_a_far_box_costs_nothing_by_default():
    """With upstream's default γ SIoULoss falls as boxes part; with the paper's it rises."""
    target = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
    pred = target + torch.tensor([[0.5, 0, 0.5, 0], [8.0, 0, 8.0, 0]])
    default, paper = (
        answer(
            {"type": "SIoULoss", "reduction": "none", "neg_gamma": neg},
            {"pred": pred, "target": target},
        ).loss
        for neg in (False, True)
    )

    assert default[1] == 0
    assert paper[1] > paper[0] > default[0] > 0


@pytest.mark.parametrize("name", [*OVERLAPS, "BoundedIoULoss"])
def test_no_boxes_have_a_gradient(name):
    """The mean of no boxes is NaN, and its gradient has no element, rather than being an error."""
    result = answer({"type": name}, boxes(0))

    assert result.loss.isnan()
    assert result.grad.shape == (0, 4)


@every_overlap
def test_boxes_may_have_more_dimensions(name):
    """[B, N, 4] is as the B · N boxes in one list."""
    flat = boxes(6)
    shaped = {key: value.view(2, 3, 4) for key, value in flat.items()}
    one = answer({"type": name, "reduction": "none"}, flat)
    two = answer({"type": name, "reduction": "none"}, shaped)

    assert_all_close(two.loss, one.loss.view(2, 3))
    assert_all_close(two.grad, one.grad.view(2, 3, 4))


@pytest.mark.parametrize(
    "config",
    [
        {"type": "GIoULoss", "eps": -1e-6},
        {"type": "GIoULoss", "eps": 1e300},
        {"type": "GIoULoss", "eps": float("nan")},
        {"type": "EIoULoss", "smooth_point": 0.0},
        {"type": "BoundedIoULoss", "beta": 0.0},
        {"type": "IoULoss", "mode": "cubic"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(config):
    """What has no meaning, or would raise later, is refused with the config."""
    with pytest.raises(RequestError, match="config"):
        answer(config, boxes(2))
