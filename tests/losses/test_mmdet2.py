"""The scope mmdet2.: what MMDetection 2.24.1 gave where 3.3.0 gives something else."""

import pytest
import torch

import losswire.errors
from lossserver.card import card
from lossserver.registry import LOSSES
from tests.losses.calls import answer
from tests.losses.golden import config_of, manifest

BOXES = {"pred": torch.arange(8.0).view(2, 4), "target": torch.ones(2, 4)}

#: Registered in 3.3.0, not in 2.24.1.
NEW = {
    "Accuracy",
    "CrossEntropyCustomLoss",
    "DDQAuxLoss",
    "EIoULoss",
    "EQLV2Loss",
    "FocalCustomLoss",
    "L2Loss",
    "MarginL2Loss",
    "MultiPosCrossEntropyLoss",
    "SIoULoss",
    "TripletLoss",
}


def test_every_loss_of_2_has_its_name():
    """What has a golden case and is not new with 3 can be asked for as mmdet2; what is new cannot."""
    names = {config_of(case).get("type", "") for case in manifest() if case["kind"] == "loss"}
    known = names & set(LOSSES)

    assert {name for name in known if f"mmdet2.{name}" in {*LOSSES, *LOSSES.aliases}} == known - NEW
    assert all(LOSSES[name] for name in LOSSES.aliases)


@pytest.mark.parametrize("name", ["L1Loss", "SmoothL1Loss"])
def test_no_short_cut(name):
    """Weights of 0 leave an unreduced loss its shape; negative ones give a negative loss."""
    weighed = BOXES | {"weight": torch.zeros(2, 4)}
    negative = BOXES | {"weight": -torch.ones(2, 4)}
    config = {"type": f"mmdet2.{name}"}

    assert answer(config, weighed, reduction_override="none").loss.shape == (2, 4)
    assert answer({"type": name}, weighed, reduction_override="none").loss.shape == ()
    torch.testing.assert_close(answer(config, negative).loss, -answer(config, BOXES).loss)
    with pytest.raises(losswire.errors.RequestError, match="avg_factor: goes with"):
        answer(config, weighed, reduction_override="sum", avg_factor=2.0)


def test_nothing_with_a_weight_has_no_mean():
    """The mean of no boxes with a weight is NaN, where 3.3.0 gives 0."""
    nothing = {name: torch.zeros(0, 4) for name in ("pred", "target", "weight")}

    assert answer({"type": "mmdet2.L1Loss"}, nothing).loss.isnan()
    assert answer({"type": "L1Loss"}, nothing).loss == 0


@pytest.mark.parametrize("name", ["FocalLoss", "QualityFocalLoss"])
def test_no_soft_targets(name):
    """A target shaped like pred came with 3."""
    inputs = {"pred": torch.zeros(2, 3), "target": torch.rand(2, 3)}
    answer({"type": name}, inputs)

    with pytest.raises(losswire.errors.RequestError, match="target: must be"):
        answer({"type": f"mmdet2.{name}"}, inputs)


@pytest.mark.parametrize(
    ("name", "new"),
    [("FocalLoss", "one-hot"), ("QualityFocalLoss", "y itself"), ("GaussianFocalLoss", "pos_inds")],
)
def test_a_card_does_not_promise_what_is_refused(name, new):
    """What came with 3 is described there, and not here."""
    assert new in card(name).text
    assert new not in card(f"mmdet2.{name}").text


def test_no_places_in_heat_maps():
    """pos_inds, pos_labels and pos_weight came with 3."""
    inputs = {"pred": torch.rand(2, 3), "target": torch.rand(2, 3)}
    places = {"pos_inds": torch.tensor([0]), "pos_labels": torch.tensor([1])}

    with pytest.raises(losswire.errors.RequestError, match="takes the inputs"):
        answer({"type": "mmdet2.GaussianFocalLoss"}, inputs | places)
    with pytest.raises(losswire.errors.RequestError, match=r"config\.pos_weight: came with"):
        answer({"type": "mmdet2.GaussianFocalLoss", "pos_weight": 2.0}, inputs)
