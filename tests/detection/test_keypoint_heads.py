"""Heads of key points: what they take, what they refuse, and where they differ from upstream."""

import pytest
import torch

import lossserver.detection  # noqa: F401  (registers them)
import losswire.errors
from lossserver.registry import LOSSES, RefusedError
from tests.losses.calls import answer, assert_all_close, job_of
from tests.losses.cases.heads_keypoints import CENTER, CORNER, center, corner

ONE_LEVEL = CORNER | {"num_feat_levels": 1}


def test_without_embeddings_all_else_is_the_same():
    """With no channels of embeddings only their losses are gone, where upstream fails."""
    inputs = corner(embedding=1, levels=1)(2)
    bare = {name: maps for name, maps in inputs["pred"].items() if "embs" not in name}
    whole = answer(ONE_LEVEL, inputs)
    ours = answer(ONE_LEVEL | {"corner_emb_channels": 0}, inputs | {"pred": bare})

    assert ours.losses.keys() == {"det_loss", "off_loss"}
    assert_all_close(ours.losses, {name: whole.losses[name] for name in ours.losses})
    assert_all_close(ours.grad, {name: whole.grad[name] for name in bare})


def test_embeddings_may_go_untrained():
    """Without a loss of embeddings their maps are taken and have no gradient."""
    result = answer(ONE_LEVEL | {"loss_embedding": None}, corner(embedding=1, levels=1)(2))

    assert result.losses.keys() == {"det_loss", "off_loss"}
    assert result.grad["tl_embs"] == [None]


@pytest.mark.parametrize(
    ("config", "inputs"), [(ONE_LEVEL, corner(embedding=1, levels=1)(2)), (CENTER, center(2))]
)
def test_the_old_key_of_the_size_is_read(config, inputs):
    """MMDetection 2's pad_shape stands for batch_input_shape, of the first image."""
    metas = [{"pad_shape": [12, 16, 3]}, {"pad_shape": [99, 99]}]
    old = inputs | {"target": inputs["target"] | {"img_metas": metas}}

    assert_all_close(answer(config, old).losses, answer(config, inputs).losses)


def with_boxes(inputs, boxes, labels=(0,)):
    """The inputs with these objects in the second of two images, and none in the first."""
    target = {
        "gt_bboxes": [torch.zeros(0, 4), torch.tensor(boxes)],
        "gt_labels": [torch.zeros(0, dtype=torch.int64), torch.tensor(labels)],
    }
    return inputs | {"target": inputs["target"] | target}


def test_a_corner_beyond_the_map():
    """Right of the map a corner is in the last cell; a cell left of it, it is no peak."""
    inputs = corner(embedding=1, levels=1)(2)
    inside = with_boxes(inputs, [[0.0, 0.0, 15.0, 11.0]])
    right = with_boxes(inputs, [[0.0, 0.0, 19.0, 11.0]])
    left = with_boxes(inputs, [[-5.0, 0.0, 11.0, 11.0]])

    pulls = [answer(ONE_LEVEL, one).losses["pull_loss"] for one in (inside, right, left)]
    embeddings = inputs["pred"]["tl_embs"][0][1, 0, 0], inputs["pred"]["br_embs"][0][1, 0, 2]
    assert_all_close(pulls[0], pulls[1])
    # The other end of the row, as upstream.
    assert_all_close(pulls[2][0], 0.25 * (embeddings[0][-1] - embeddings[1][2]).square() / 2)


def test_a_box_of_any_size_is_computed():
    """Far larger than the input, a box costs no more than its map and gives finite losses."""
    inputs = with_boxes(corner(embedding=1, levels=1)(2), [[0.0, 0.0, 1e30, 1e30]])
    result = answer(ONE_LEVEL, inputs)

    assert all(value.isfinite() for values in result.losses.values() for value in values)


@pytest.mark.parametrize("box", [[-80.0, 0.0, 5.0, 5.0], [0.0, -70.0, 5.0, 5.0]])
def test_a_corner_a_whole_input_before_it_is_refused(box):
    """There is no cell for it, not even from the other end; the image and the box are named."""
    inputs = with_boxes(corner(embedding=1, levels=1)(2), [[0.0, 0.0, 1.0, 1.0], box], (0, 1))

    with pytest.raises(losswire.errors.TensorError, match=r"gt_bboxes\[1\]\[1\]: must not begin"):
        job_of(ONE_LEVEL, inputs)


@pytest.mark.parametrize("box", [[-40.0, 0.0, 20.0, 5.0], [14.0, 0.0, 18.0, 5.0], [0.0, 6, 1, 18]])
def test_a_centre_outside_is_refused(box):
    """An object whose centre is on no cell has nothing to learn; the image and box are named."""
    with pytest.raises(losswire.errors.TensorError, match=r"gt_bboxes\[1\]\[0\]: the centre"):
        job_of(CENTER, with_boxes(center(2), [box]))


def test_a_centre_just_left_of_the_map_is_in_its_first_column():
    """Less than a cell outside, upstream cuts it off to 0: its offset is below 0."""
    inputs = with_boxes(center(2), [[-6.0, 0.0, 2.0, 4.0]])
    inputs["pred"]["offset_preds"] = [torch.zeros(2, 2, 3, 4)]
    # The centre is (-0.5, 0.5) cells.

    assert float(answer(CENTER, inputs).losses["loss_offset"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": 1 << 40}, "num_classes"),
        ({"num_feat_levels": 0}, "num_feat_levels"),
        ({"corner_emb_channels": -1}, "corner_emb_channels"),
        ({"loss_embedding": {"type": "L1Loss"}}, "loss_embedding.type"),
        ({"loss_heatmap": {"type": "TripletLoss"}}, "loss_heatmap.avg_factor"),
        ({"loss_heatmap": {"type": "L1Loss", "reduction": "sum"}}, "loss_heatmap.avg_factor"),
        ({"loss_offset": {"type": "IoULoss"}}, "loss_offset.pred"),
        ({"loss_offset": {"type": "NoLoss"}}, "loss_offset.type"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(config, field):
    """What cannot be computed is refused when the config is read, with the path of the field."""
    with pytest.raises(RefusedError) as caught:
        LOSSES.build(CORNER | config)

    assert caught.value.field == field


def changed(inputs, name, maps):
    """The inputs with other maps of that name; None is without."""
    pred = {key: value for key, value in inputs["pred"].items() if key != name}
    return inputs | {"pred": pred if maps is None else pred | {name: maps}}


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("tl_embs", None, "pred: must be a map of tl_heats, br_heats, tl_embs"),
        ("br_offs", [[2, 2, 3, 4]], "pred.br_offs: must have one map a level, here 2"),
        ("br_offs", [[2, 2, 3, 4], [2, 1, 3, 4]], r"pred.br_offs\[1\]: must be \[2, 2, H, W\]"),
    ],
)
def test_maps_that_do_not_fit_are_refused(name, shapes, message):
    """Names, levels and channels are the config's."""
    inputs = corner(embedding=1, levels=2)(2)
    maps = None if shapes is None else [torch.zeros(shape) for shape in shapes]

    with pytest.raises(losswire.errors.TensorError, match=message):
        job_of(CORNER, changed(inputs, name, maps))


@pytest.mark.parametrize("size", [(4, 4), (0, 4)])
def test_levels_of_other_sizes_are_refused(size):
    """The stacks of a network share their targets, so their maps are equally large; and not empty."""
    inputs = corner(embedding=1, levels=2)(2)
    pred = {
        name: [torch.zeros(2, maps[0].shape[1], *size), maps[1]]
        for name, maps in inputs["pred"].items()
    }

    with pytest.raises(losswire.errors.TensorError, match=r"pred.tl_heats\[0\]: must have cells"):
        job_of(CORNER, inputs | {"pred": pred})


def test_a_missing_size_is_refused():
    """An image without the size of the network's input is named."""
    inputs = center(2)
    metas = [{"batch_input_shape": [12, 16]}, {}]

    with pytest.raises(
        losswire.errors.TensorError, match=r"img_metas\[1\].batch_input_shape: must be"
    ):
        job_of(CENTER, inputs | {"target": inputs["target"] | {"img_metas": metas}})


def test_nan_predictions_are_computed():
    """A prediction that is not a number gives a loss that is none."""
    inputs = center(2)
    inputs["pred"]["wh_preds"] = [torch.full((2, 2, 3, 4), torch.nan)]
    result = answer(CENTER, inputs)

    assert result.losses["loss_offset"].isfinite()
