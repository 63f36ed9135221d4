"""DETR's head: what it takes, what it refuses, and how it matches."""

import pytest
import torch

import lossserver.detection  # noqa: F401  (registers them)
import losswire.errors
from lossserver.registry import LOSSES, RefusedError
from tests.losses.calls import answer, assert_all_close, job_of
from tests.losses.cases.heads_keypoints import DETR, FOCAL, detr

CE = {"type": "CrossEntropyLoss"}


def test_each_layer_is_matched_by_itself():
    """The losses of a layer are those of a call with that layer alone."""
    inputs = detr(layers=2, scores=3)(3)
    both = answer(DETR, inputs).losses
    for layer, prefix in enumerate(("d0.", "")):
        own = {name: one[layer : layer + 1] for name, one in inputs["pred"].items()}
        alone = answer(DETR, inputs | {"pred": own}).losses

        assert_all_close({name: both[prefix + name] for name in alone}, alone)


def test_the_best_query_gets_the_object():
    """A query that says the object, exactly and surely, has no loss of its box."""
    scores = torch.zeros(1, 1, 3, 3)
    scores[0, 0, 1, 0] = 20
    boxes = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    boxes[0, 0, 1] = torch.tensor([0.5, 0.5, 0.5, 0.25])
    target = {
        "gt_bboxes": [torch.tensor([[25.0, 15.0, 75.0, 25.0]])],
        "gt_labels": [torch.tensor([0])],
        "img_metas": [{"img_shape": [40, 100]}],
    }
    pred = {"all_layers_cls_scores": scores, "all_layers_bbox_preds": boxes}
    losses = answer(DETR, {"pred": pred, "target": target}).losses

    assert float(losses["loss_bbox"]) == 0
    assert float(losses["loss_iou"]) == pytest.approx(0, abs=1e-6)


def test_more_objects_than_queries():
    """The queries that there are get an object each; nothing is refused."""
    inputs = detr(layers=1, scores=3)(1)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(5, 1)
    target = inputs["target"] | {"gt_bboxes": [boxes], "gt_labels": [torch.ones(5).long()]}

    assert float(answer(DETR, inputs | {"target": target}).losses["loss_bbox"]) > 0


@pytest.mark.parametrize("name", ["all_layers_cls_scores", "all_layers_bbox_preds"])
def test_nan_predictions_are_computed(name):
    """What is not a number is matched last, where upstream fails."""
    inputs = detr(layers=1, scores=3)(3)
    inputs["pred"] = inputs["pred"] | {name: inputs["pred"][name] * torch.nan}

    assert answer(DETR, inputs).losses["loss_cls"].dim() == 0


def test_no_queries_no_trouble():
    """Without queries there is nothing to match, and no loss."""
    inputs = detr(layers=1, scores=3)(2)
    pred = {name: one[:, :, :0] for name, one in inputs["pred"].items()}

    assert float(answer(DETR, inputs | {"pred": pred}).losses["loss_bbox"]) == 0


def test_a_shared_divisor_has_a_dimension():
    """As upstream, whose divisor is a tensor then, unless it had to be raised to 1."""
    shared = DETR | {"sync_cls_avg_factor": True}
    inputs = detr(layers=1, scores=3)(2)
    plain, found = answer(DETR, inputs).losses, answer(shared, inputs).losses
    none = inputs["target"] | {
        "gt_bboxes": [torch.zeros(0, 4)] * 2,
        "gt_labels": [torch.zeros(0, dtype=torch.int64)] * 2,
    }

    assert_all_close(found["loss_cls"], plain["loss_cls"].unsqueeze(0))
    assert answer(shared, inputs | {"target": none}).losses["loss_cls"].dim() == 0


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 1 << 40}, "num_classes"),
        ({"train_cfg": None}, "train_cfg"),
        ({"train_cfg": {}}, "train_cfg"),
        ({"train_cfg": {"assigner": None}}, "train_cfg.assigner"),
        ({"train_cfg": {"assigner": {"type": "None"}}}, "train_cfg.assigner.type"),
        ({"train_cfg": FOCAL["train_cfg"] | {"sampler": {}}}, "train_cfg.sampler"),
        ({"loss_cls": CE | {"class_weight": 1}}, "loss_cls.class_weight"),
        ({"loss_cls": CE | {"class_weight": [1.0, 1.0]}}, "loss_cls.class_weight"),
        ({"loss_cls": CE | {"class_weight": 1.0, "bg_cls_weight": 1}}, "loss_cls.bg_cls_weight"),
        ({"loss_cls": CE | {"bg_cls_weight": 0.1}}, "loss_cls.bg_cls_weight"),
        (
            {"loss_cls": CE | {"class_weight": 1.0, "use_sigmoid": True}},
            "loss_cls.class_weight",
        ),
        ({"loss_cls": {"type": "L1Loss"}}, "loss_cls.type"),
        ({"loss_iou": {"type": "GIoULoss", "reduction": "sum"}}, "loss_iou.avg_factor"),
        ({"loss_bbox": {"type": "SmoothL1Loss", "beta": 0.0}}, "loss_bbox.beta"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(config, field):
    """What cannot be computed is refused when the config is read, with the path of the field."""
    with pytest.raises(RefusedError) as caught:
        LOSSES.build(DETR | config)

    assert caught.value.field == field


def test_the_config_is_left_as_it_was():
    """The class weights are made of a copy."""
    config = DETR | {"loss_cls": CE | {"class_weight": 1.0, "bg_cls_weight": 0.1}}
    before = repr(config)
    LOSSES.build(config)

    assert repr(config) == before


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        ({"all_layers_cls_scores": [torch.zeros(2, 3, 3)]}, "scores: must be one tensor"),
        ({"all_layers_cls_scores": torch.zeros(1, 2, 3, 2)}, r"\[layers, 2, queries, 3\]"),
        ({"all_layers_cls_scores": torch.zeros(0, 2, 3, 3)}, "must have 1..32 layers"),
        ({"all_layers_cls_scores": torch.zeros(33, 2, 3, 3)}, "must have 1..32 layers"),
        ({"all_layers_bbox_preds": torch.zeros(1, 2, 4, 4)}, r"must be \[1, 2, 3, 4\]"),
        ({"all_layers_bbox_preds": torch.zeros(1, 2, 3, 4).long()}, "must be floating point"),
        ({"all_layers": torch.zeros(1)}, "pred: must be a map of all_layers_cls_scores"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(pred, message):
    """Both are one tensor of all layers."""
    inputs = detr(layers=1, scores=3)(2)

    with pytest.raises(losswire.errors.TensorError, match=message):
        job_of(DETR, inputs | {"pred": inputs["pred"] | pred})


def test_regions_to_ignore_are_refused():
    """As upstream, which has no use for them."""
    inputs = detr(layers=1, scores=3)(1)
    target = inputs["target"] | {"gt_bboxes_ignore": [torch.zeros(0, 4)]}

    with pytest.raises(losswire.errors.TensorError, match="gt_bboxes_ignore: must be left out"):
        job_of(DETR, inputs | {"target": target})


def test_an_upstream_gradient_of_no_layer_is_refused():
    """A name of a layer that the call does not have is no output of it."""
    inputs = detr(layers=2, scores=3)(1)

    with pytest.raises(losswire.errors.SpecError, match="loss_cls: there are 2 layers"):
        job_of(DETR, inputs, grad_output={"d1.loss_cls": torch.ones(())})
