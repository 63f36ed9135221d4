"""Heads of FCOS, FoveaBox, VarifocalNet and FSAF: which object a point is for, and what is refused."""

import math

import pytest
import torch

import lossserver.detection.places
from lossserver.detection.fcos_targets import PointTargeting
from lossserver.detection.images import Image
from lossserver.registry import LOSSES, RefusedError
from tests.losses.calls import answer
from tests.losses.cases.heads_points import FCOS, FOVEA, FSAF, VFNET, fcos, fovea, fsaf, vfnet

HEADS = [
    (FCOS, fcos),
    (FOVEA, fovea),
    (VFNET, vfnet),
    (VFNET | {"use_atss": False}, vfnet),
    (FSAF, fsaf),
]
every_head = pytest.mark.parametrize(("config", "inputs"), HEADS)

POINTS = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [28.0, 4.0]])


def image_of(*boxes):
    """An image of these objects, of class 0, 1, 2 ..."""
    found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Image(boxes=found, labels=torch.arange(len(boxes)), ignored=found[:0], meta={})


def labels_of(*boxes, ranges=(-1.0, 1e8), radius=None):
    """The labels of four points in a row, 8 pixels apart; 9 is background."""
    targeting = PointTargeting(
        regress_ranges=(ranges,), center_sample_radius=radius, strides=[(8, 8)], background=9
    )
    return targeting.of_images([(1, 4)], [POINTS], [image_of(*boxes)])[0][0].tolist()


def test_a_point_is_for_the_smallest_object():
    """Of objects around a point the smallest has it, and of equal ones the first."""
    assert labels_of([0, 0, 32, 8], [8, 0, 16, 8]) == [0, 1, 0, 0]
    assert labels_of([0, 0, 16, 8], [8, 0, 24, 8]) == [0, 0, 1, 9]


def test_a_point_on_the_border_is_outside():
    """A point must be strictly inside; boxes without area have no points."""
    assert labels_of([4, 0, 20, 8]) == [9, 0, 9, 9]
    assert labels_of([4, 4, 4, 4], [0, 4, 32, 4]) == [9, 9, 9, 9]
    assert labels_of() == [9, 9, 9, 9]


def test_ranges_include_both_ends():
    """The farthest side of the object decides which level's points it has."""
    assert labels_of([0, 0, 32, 8], ranges=(20.0, 28.0)) == [0, 0, 0, 0]
    assert labels_of([0, 0, 32, 8], ranges=(21.0, 28.0)) == [0, 9, 9, 0]
    assert labels_of([0, 0, 32, 8], ranges=(20.0, 27.0)) == [9, 0, 0, 9]


def test_center_sampling_keeps_to_the_middle():
    """A point must be nearer to the object's centre than so many strides, in x and y."""
    assert labels_of([0, 0, 32, 8], radius=1.5) == [9, 0, 0, 9]
    assert labels_of([0, 0, 32, 8], radius=1.6) == [0, 0, 0, 0]


@pytest.mark.parametrize(("config", "inputs"), HEADS[:2])
@pytest.mark.parametrize("block", [4, 8])
def test_blocks_change_nothing(config, inputs, block, monkeypatch):
    """Points and objects are compared some at a time, with the same result."""
    whole = answer(config, inputs(3))
    monkeypatch.setattr(lossserver.detection.places, "BLOCK", block)
    parts = answer(config, inputs(3))

    assert {k: v.item() for k, v in parts.losses.items()} == {
        k: v.item() for k, v in whole.losses.items()
    }


def test_fovea_the_smallest_is_on_top():
    """Where the middles of objects overlap the smaller one is learnt, and of equal ones the last."""
    head = LOSSES.build(FOVEA | {"strides": [8], "scale_ranges": [[1, 64]], "sigma": 1.0})
    for boxes, wanted in (
        ([[0, 0, 32, 8], [8, 0, 16, 8]], [0, 1, 0, 0]),
        ([[0, 0, 16, 8], [8, 0, 24, 8]], [0, 1, 1, 2]),
    ):
        labels, targets = head._of_level(0, POINTS, (1, 4), image_of(*boxes))

        assert labels.tolist() == wanted
        assert torch.equal(targets[labels == 2], torch.zeros((labels == 2).sum(), 4))


def test_an_object_is_learnt_on_its_best_level():
    """FSAF takes the level of the least loss: better scores there move the positives to it."""
    inputs = fsaf(1)
    inputs["target"] |= {
        "gt_bboxes": [torch.tensor([[0.0, 0.0, 32.0, 32.0]])],
        "gt_labels": [torch.tensor([1])],
    }
    heavy = FSAF | {"loss_cls": FSAF["loss_cls"] | {"loss_weight": 100}}
    for best in (0, 1):
        scores = [torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)]
        scores[best][:, 1] = 9.0
        pred = {
            "cls_scores": scores,
            "bbox_preds": [torch.full((1, 4, size, size), 0.5) for size in (4, 2)],
        }
        losses = answer(heavy, inputs | {"pred": pred}).losses

        assert losses["loss_bbox"][best] > 0
        assert losses["loss_bbox"][1 - best] == 0
        assert losses["pos_recall"].tolist() == [100.0]


def test_nan_of_the_background_moves_no_object():
    """A NaN where no object is leaves the choice of levels as it was."""
    inputs = fsaf(2)
    before = answer(FSAF, inputs).losses
    inputs["pred"]["cls_scores"][0][1, :, 3, 3] = math.nan
    after = answer(FSAF, inputs).losses

    assert after["loss_cls"][0].isnan()
    assert after["loss_bbox"] == before["loss_bbox"]


def test_without_anything_to_learn_fsaf_is_nan():
    """Where all is ignored upstream divides 0 by 0."""
    inputs = fsaf(1)
    everywhere = torch.tensor([[-64.0, -64.0, 96.0, 96.0]])
    empty = {"gt_bboxes": [everywhere[:0]], "gt_labels": [torch.zeros(0, dtype=torch.int64)]}
    inputs["target"] |= empty | {"gt_bboxes_ignore": [everywhere]}
    losses = answer(FSAF, inputs).losses

    assert all(loss.isnan() for loss in losses["loss_cls"] + losses["loss_bbox"])
    assert losses["num_pos"] == 0
    assert losses["pos_recall"] == 0


@every_head
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30])
def test_odd_predictions_are_computed(config, inputs, value):
    """Predictions that are not finite, or absurd, give an answer."""
    sent = inputs(2)
    pred = {
        name: [torch.full_like(one, value) for one in maps] for name, maps in sent["pred"].items()
    }
    result = answer(config, sent | {"pred": pred})

    assert result.grad["cls_scores"][0].shape == pred["cls_scores"][0].shape


@every_head
def test_without_objects(config, inputs):
    """No object in any image: the boxes lose nothing, and the scores learn the background."""
    sent = inputs(2)
    none = {"gt_bboxes": [torch.zeros(0)] * 2, "gt_labels": [torch.zeros(0)] * 2}
    result = answer(config, sent | {"target": sent["target"] | none})
    boxes = result.losses["loss_bbox"]

    assert all(float(one) == 0 for one in (boxes if isinstance(boxes, list) else [boxes]))
    assert all(grad.any() for grad in result.grad["cls_scores"])
    assert not any(grad is not None and grad.any() for grad in result.grad["bbox_preds"])


def test_strides_may_be_pairs():
    """A stride of its own in x and y; equal ones are the same as one number."""
    options = {"center_sampling": True, "norm_on_bbox": True}
    pairs = answer(FCOS | options | {"strides": [[8, 8], [16, 16]]}, fcos(2))

    assert pairs.losses == answer(FCOS | options, fcos(2)).losses


def test_vfnet_without_atss_needs_no_assigner():
    """train_cfg may be left out where FCOS's targets are taken."""
    config = {name: value for name, value in VFNET.items() if name != "train_cfg"}

    assert answer(config | {"use_atss": False}, vfnet(1)).losses["loss_bbox"] > 0


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (FCOS | {"num_classes": 0}, "num_classes"),
        (FCOS | {"strides": [8, 0]}, "strides[1]"),
        (FCOS | {"regress_ranges": [[-1, 1e8]]}, "regress_ranges"),
        (FCOS | {"regress_ranges": [[-1, 8], [8]]}, "regress_ranges[1]"),
        (FCOS | {"bbox_coder": {"type": "DeltaXYWHBBoxCoder"}}, "bbox_coder.type"),
        (FCOS | {"loss_bbox": {"type": "L1Loss"}}, "loss_bbox.weight"),
        (FCOS | {"loss_centerness": {"type": "NoLoss"}}, "loss_centerness.type"),
        (FOVEA | {"strides": [[8, 8], [16, 16]]}, "strides[0]"),
        (FOVEA | {"base_edge_list": [8]}, "base_edge_list"),
        (FOVEA | {"base_edge_list": [8, 0]}, "base_edge_list[1]"),
        (FOVEA | {"scale_ranges": [[1, 8]]}, "scale_ranges"),
        (FOVEA | {"scale_ranges": [[1, 8], [8]]}, "scale_ranges[1]"),
        (VFNET | {"train_cfg": None}, "train_cfg"),
        (VFNET | {"reg_decoded_bbox": False}, "reg_decoded_bbox"),
        (VFNET | {"anchor_generator": VFNET["anchor_generator"] | {"ratios": [1, 2]}}, "anchor_generator"),
        (VFNET | {"use_atss": False, "strides": [8]}, "strides"),
        (VFNET | {"loss_cls": {"type": "CrossEntropyLoss"} | {"reduction": "sum"}}, "loss_cls.avg_factor"),
        (FSAF | {"train_cfg": None}, "train_cfg"),
        (FSAF | {"loss_cls": {"type": "FocalLoss", "use_sigmoid": True}}, "loss_cls.reduction"),
        (FSAF | {"loss_bbox": {"type": "IoULoss"}}, "loss_bbox.reduction"),
        (FSAF | {"loss_cls": {"type": "CrossEntropyLoss", "reduction": "none"}}, "loss_cls.use_sigmoid"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_is_refused(config, field):
    """What cannot be computed is refused when the config is read, by the path of its field."""
    with pytest.raises(RefusedError) as refused:
        LOSSES.build(config)

    assert refused.value.field == field
