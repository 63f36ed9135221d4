"""Quality and distribution focal losses where a stranger may stumble."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases.gfocal import distances, rated, rated_maps, rated_probabilities

QUALITY = {"type": "QualityFocalLoss", "reduction": "none"}
DISTRIBUTION = {"type": "DistributionFocalLoss", "reduction": "none"}


def test_the_quality_of_background_is_not_read():
    """A row without a class of pred is background, whatever its quality, and gives it no gradient."""
    inputs = rated(4)
    label = torch.tensor([-1, 3, 10**12, -(10**12)])
    sick = inputs | {"target": [label, torch.full((4,), torch.nan).double()]}
    zero = inputs | {"target": [label, torch.zeros(4).double()]}
    result = answer(QUALITY, sick, wrt=("pred", "target"))

    assert torch.equal(result.loss, answer(QUALITY, zero).loss)
    assert result.grad.isfinite().all()
    assert result.grads["target"][0] is None
    assert not result.grads["target"][1].any()


def test_a_fraction_of_a_class_is_cut_off():
    """Classes may be floating point: 1.9 is class 1, and -0.1 is background, as upstream."""
    inputs = rated(4)
    quality = inputs["target"][1]
    cut = inputs | {"target": [torch.tensor([1.9, -0.1, torch.nan, 2.0]), quality]}
    whole = inputs | {"target": [torch.tensor([1, -1, 3, 2]), quality]}

    assert_all_close(answer(QUALITY, cut).loss, answer(QUALITY, whole).loss)


def test_small_integers_may_be_classes():
    """More classes than a uint8 can count do not fold back into its range."""
    pred = torch.zeros(2, 300)
    narrow = answer(QUALITY, {"pred": pred, "target": [torch.tensor([7, 255]).byte(), pred[:, 0]]})
    wide = answer(QUALITY, {"pred": pred, "target": [torch.tensor([7, 255]), pred[:, 0]]})

    assert torch.equal(narrow.loss, wide.loss)


def test_no_gradient_into_a_quality_map_where_it_is_0():
    """As upstream, an element of 0 is a negative, not a positive of quality 0."""
    inputs = rated_maps(3)
    inputs["target"][1] = 0
    grad = answer(QUALITY, inputs, wrt=("target",)).grads["target"]

    assert grad[[0, 2]].all()
    assert not grad[1].any()


def test_a_probability_that_is_nan():
    """Where torch would assert, a NaN is the loss of its own row."""
    inputs = rated_probabilities(4)
    inputs["pred"][1, 0] = torch.nan
    inputs["target"] = [torch.tensor([0, 0, 0, 0]), torch.tensor([0.5, 0.5, torch.nan, 0.5])]
    loss = answer(QUALITY | {"activated": True}, inputs).loss

    assert loss.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"target": [torch.zeros(4)]},
            "target: must be a list of class index and quality; given 1",
        ),
        ({"target": [torch.zeros(4), 3]}, "target: must be a list of class index and quality"),
        ({"target": {"label": torch.zeros(4)}}, "target: must be a list .*; given dict"),
        ({"target": [torch.zeros(4), torch.zeros(3)]}, r"target\[1\]: must be \[N\], here \[4\]"),
        ({"target": [torch.zeros(4, 1), torch.zeros(4)]}, r"target\[0\]: must be \[N\]"),
        ({"target": [torch.zeros(4), torch.full((4,), 2.0)]}, r"target\[1\]: probabilities"),
        ({"target": torch.full((4, 3), 2.0)}, "target: probabilities"),
        ({"pred": torch.full((4, 3), -0.1)}, "pred: probabilities"),
        ({"target": torch.zeros(4)}, r"target: .* or shaped like pred, \[4, 3\]"),
        ({"pred": torch.zeros(4, 3, 2)}, r"pred: must be \[N, C\]"),
    ],
    ids=str,
)
def test_quality_refuses(change, rule):
    """What is no class and quality, or no probability, is refused by name."""
    with pytest.raises(losswire.errors.RequestError, match=rule):
        answer(QUALITY | {"activated": True}, rated_probabilities(4) | change)


@pytest.mark.parametrize("distance", [4.0, 1e30, torch.inf, -1.0])
def test_a_distance_beyond_the_bins_is_refused(distance):
    """As upstream the last bin itself is too far: the next one would be needed."""
    inputs = distances(3)
    inputs["target"][1] = distance

    with pytest.raises(losswire.errors.RequestError, match="target: a distance must be at least 0"):
        answer(DISTRIBUTION, inputs)


def test_distances_at_the_ends():
    """A whole distance is its bin's entropy; below 0 the line through bins 0 and 1 goes on; NaN is NaN."""
    pred = distances(4)["pred"]
    target = torch.tensor([3.0, 0.0, -0.5, torch.nan], dtype=torch.float64)
    loss = answer(DISTRIBUTION, {"pred": pred, "target": target}).loss
    entropy = -pred.log_softmax(1)

    assert_all_close(loss[:2], torch.stack([entropy[0, 3], entropy[1, 0]]))
    assert_all_close(loss[2], 1.5 * entropy[2, 0] - 0.5 * entropy[2, 1])
    assert loss[3].isnan()
