"""The heads of SSD and YOLO, beyond what the golden cases and the contract hold them to."""

import pytest
import torch

import lossserver.detection  # noqa: F401  (registers them)
import losswire.errors
from tests.losses.calls import answer, assert_all_close, floats
from tests.losses.cases.heads_grids import SSD, YOLOV3, YOLOX, ssd, yolov3, yolox

HEADS = [(SSD, ssd), (YOLOX, yolox), (YOLOV3, yolov3)]
every_head = pytest.mark.parametrize(("config", "inputs"), HEADS, ids=["ssd", "yolox", "yolov3"])


def trained(config, **changes):
    """The config with another train_cfg; None takes a key out of it."""
    both = config["train_cfg"] | changes
    return config | {"train_cfg": {k: v for k, v in both.items() if v is not None}}


def empty(inputs):
    """The inputs without an object in any image."""
    target = inputs["target"]
    none = [box[:0] for box in target["gt_bboxes"]], [label[:0] for label in target["gt_labels"]]
    return inputs | {"target": target | {"gt_bboxes": none[0], "gt_labels": none[1]}}


def total(value):
    """The sum of an output, which may be a list."""
    return sum(map(total, value)) if isinstance(value, list) else float(value.sum())


@every_head
def test_float32_is_near_float64(config, inputs):
    """A head computes in what was sent, also where upstream knows float32 alone."""
    exact, near = (
        answer(config, floats(inputs(3), dtype)) for dtype in (torch.float64, torch.float32)
    )

    assert exact.grad.keys() == near.grad.keys()
    for name, value in exact.losses.items():
        assert total(value) == pytest.approx(total(near.losses[name]), rel=1e-5)
    for name, maps in exact.grad.items():
        assert_all_close([one.float() for one in maps], near.grad[name], rtol=1e-4, atol=1e-5)


@every_head
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_prediction_raises(config, inputs, value):
    """A prediction that is no number gives losses that may be none, and no error."""
    given = inputs(2)
    for maps in given["pred"].values():
        maps[0][0] = value

    answer(config, given)


@every_head
def test_a_level_may_have_no_places(config, inputs):
    """A map without height is a level without priors."""
    given = empty(inputs(2))
    pred = {name: [maps[0], maps[1][:, :, :0]] for name, maps in given["pred"].items()}
    grad = answer(config, given | {"pred": pred}).grad

    assert all(maps[1].shape[2] == 0 for maps in grad.values())


@pytest.mark.parametrize(
    ("config", "inputs", "left"),
    [(SSD, ssd, set()), (YOLOX, yolox, {"loss_obj"})],
    ids=["ssd", "yolox"],
)
def test_without_objects_all_predictions_are_reached(config, inputs, left):
    """Only the objectness of YOLOX learns from images without objects; all else gets zeros, not None."""
    result = answer(config, empty(inputs(2)))

    assert {name for name, value in result.losses.items() if total(value)} == left
    assert all(grad is not None for maps in result.grad.values() for grad in maps)


@every_head
def test_it_must_be_told_how_to_assign(config, inputs):
    """Without train_cfg, or without an assigner in it, a head is refused."""
    with pytest.raises(losswire.errors.SpecError, match=r"config\.train_cfg: must be given"):
        answer(config | {"train_cfg": None}, inputs(1))
    with pytest.raises(losswire.errors.SpecError, match=r"config\.train_cfg\.assigner"):
        answer(trained(config, assigner=None), inputs(1))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (trained(SSD, neg_pos_ratio=1.5), "train_cfg.neg_pos_ratio"),
        (trained(SSD, neg_pos_ratio=-1), "train_cfg.neg_pos_ratio"),
        (trained(SSD, neg_pos_ratio=None), "train_cfg.neg_pos_ratio"),
        (trained(SSD, smoothl1_beta=0), "train_cfg.smoothl1_beta"),
        (trained(SSD, smoothl1_beta=None), "train_cfg.smoothl1_beta"),
        (SSD | {"loss_cls": {"type": "FocalLoss"}}, "loss_cls"),
        (YOLOX | {"train_cfg": YOLOV3["train_cfg"]}, "train_cfg.assigner"),
        (YOLOX | {"strides": [8, 0]}, "strides.strides[1]"),
        (YOLOX | {"loss_obj": {"type": "DiceLoss", "use_sigmoid": False}}, "loss_obj"),
        (YOLOV3 | {"train_cfg": YOLOX["train_cfg"]}, "train_cfg.assigner"),
        (YOLOV3 | {"loss_wh": {"type": "IoULoss"}}, "loss_wh.pred"),
        (YOLOV3 | {"bbox_coder": {"type": "DeltaXYWHBBoxCoder"}}, "bbox_coder"),
        (YOLOV3 | {"featmap_strides": [16]}, "featmap_strides"),
        (YOLOV3 | {"one_hot_smoother": 1.5}, "one_hot_smoother"),
        (trained(YOLOV3, sampler={"type": "PseudoSampler"}), "train_cfg.sampler"),
        (
            YOLOV3 | {"anchor_generator": {"type": "MlvlPointGenerator", "strides": [16, 8]}},
            "anchor_generator",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else x["type"],
)
def test_a_config_that_no_head_can_be_built_from(config, field):
    """What a head could not compute with is refused when the config is read, naming the field."""
    with pytest.raises(losswire.errors.SpecError) as refusal:
        answer(config, yolox(1))

    assert refusal.value.field.startswith(f"config.{field}")


def test_ssd_without_negatives_is_its_positives():
    """With neg_pos_ratio 0 nothing is mined; each further negative of a positive adds to the loss."""
    values = [
        total(answer(trained(SSD, neg_pos_ratio=ratio), ssd(2)).losses["loss_cls"])
        for ratio in (0, 1, 1000)
    ]

    assert 0 < values[0] < values[1] < values[2]


def test_ssd_mines_the_hardest():
    """The negatives with a gradient are those of the largest cross entropy, as many as positives."""
    inputs = ssd(1)
    grads = answer(SSD, inputs).grad["cls_scores"]
    rows, slopes = (
        torch.cat([one.permute(0, 2, 3, 1).reshape(-1, 3) for one in maps])
        for maps in (inputs["pred"]["cls_scores"], grads)
    )
    entropy, learns = -rows.log_softmax(1)[:, 2], slopes.any(1)
    positive = learns & (slopes[:, 2] > 0)  # away from background
    mined = entropy[learns & ~positive]

    assert len(mined) == positive.sum() > 0
    assert mined.min() > entropy[~learns].max()


def test_ssd_may_compare_boxes_in_pixels():
    """With reg_decoded_bbox the loss of boxes is another, and that of scores the same."""
    encoded, pixels = (answer(SSD | {"reg_decoded_bbox": flag}, ssd(2)) for flag in (False, True))

    assert_all_close(pixels.losses["loss_cls"], encoded.losses["loss_cls"])
    assert total(pixels.losses["loss_bbox"]) > total(encoded.losses["loss_bbox"])


def test_yolox_has_an_l1_loss_where_it_is_asked_for():
    """use_l1 adds an output and changes no other."""
    without, with_l1 = (answer(YOLOX | {"use_l1": flag}, yolox(2)) for flag in (False, True))

    assert with_l1.losses.keys() - without.losses.keys() == {"loss_l1"}
    assert_all_close({name: with_l1.losses[name] for name in without.losses}, without.losses)
    with pytest.raises(losswire.errors.RequestError, match="loss_l1"):
        answer(YOLOX, yolox(2), grad_output={"loss_l1": torch.ones(())})


def test_yolox_predicts_its_object_without_loss():
    """A point whose prediction is the encoded box has no loss of boxes."""
    inputs = empty(yolox(1))
    # One object in the first level's cell of column 1 and row 2, whose corner is at 8, 16.
    inputs["target"]["gt_bboxes"] = [torch.tensor([[6.0, 14.0, 14.0, 26.0]])]
    inputs["target"]["gt_labels"] = [torch.tensor([1])]
    sizes = torch.tensor([8.0, 12.0])
    for level, stride in enumerate((8, 16)):
        maps = inputs["pred"]["bbox_preds"][level]
        rows, columns = (torch.arange(side) * stride for side in maps.shape[2:])
        maps[0, 0], maps[0, 1] = (10 - columns) / stride, ((20 - rows) / stride)[:, None]
        maps[0, 2:] = (sizes / stride).log()[:, None, None]
    losses = answer(YOLOX | {"use_l1": True}, inputs).losses

    assert float(losses["loss_bbox"]) == pytest.approx(0, abs=1e-5)
    assert float(losses["loss_l1"]) == pytest.approx(0, abs=1e-5)
    assert float(losses["loss_cls"]) > 0


def moved(x, y):
    """YOLOv3's inputs with one object of 4 by 4 pixels, its centre at x, y."""
    inputs = empty(yolov3(1))
    inputs["target"]["gt_bboxes"] = [torch.tensor([[x - 2.0, y - 2.0, x + 2.0, y + 2.0]])]
    inputs["target"]["gt_labels"] = [torch.tensor([0])]
    return inputs


@pytest.mark.parametrize("centre", [(8, 17), (-40, 8), (8, 1e30)])
def test_yolov3_refuses_a_centre_outside_of_a_map(centre):
    """Upstream's IndexError is a refusal that names image, box and level."""
    with pytest.raises(losswire.errors.TensorError, match=r"gt_bboxes\[0\]\[0\].*map of level 0"):
        answer(YOLOV3, moved(*centre))


def test_yolov3_takes_a_centre_beside_a_map_for_another_row():
    """A centre left of the first column falls into the last cell of the row before, as upstream."""
    only = YOLOV3 | {
        "anchor_generator": {
            "type": "YOLOAnchorGenerator",
            "base_sizes": [[[4, 4]]],
            "strides": [8],
        },
        "featmap_strides": [8],
    }
    beside, above = moved(-1, 12), moved(12, 4)
    for inputs in (beside, above):
        inputs["pred"]["pred_maps"] = yolov3(1)["pred"]["pred_maps"][1:]
    found = [
        answer(
            trained(only, assigner=only["train_cfg"]["assigner"] | {"min_pos_iou": -1}), one
        ).grad
        for one in (beside, above)
    ]

    assert all(
        grad["pred_maps"][0][0, 5:].abs().sum(0).nonzero().tolist() == [[0, 1]] for grad in found
    )


def test_yolov3_leaves_out_what_is_neither_positive_nor_negative():
    """An anchor between the thresholds has no gradient at all."""
    assigner = YOLOV3["train_cfg"]["assigner"] | {"neg_iou_thr": [0.9, 1.0], "pos_iou_thr": 0.95}
    grad = answer(trained(YOLOV3, assigner=assigner), moved(4, 4)).grad["pred_maps"]

    assert grad[1][0, :, 0, 0].all()
    assert not grad[1][0, :, 1:].any()
