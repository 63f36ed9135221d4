"""Assignment by itself: what a head's anchors are to predict, without its predictions."""

import numpy as np
import pytest
import torch

import lossclient
from tests.detection.golden_heads import golden_heads, leaves
from tests.losses.cases.heads_anchors import MAX_IOU, SIZES, head
from tests.losses.cases.heads_grids import SSD, truth

RETINA = head("RetinaHead", MAX_IOU, loss_cls={"type": "FocalLoss", "use_sigmoid": True})
#: Of random cases the targets were recorded by a second call, which drew other numbers.
ANCHORED = [
    golden
    for golden in golden_heads()
    if "targets" in golden.expected.get("structure", {})
    and golden.run == "f32"
    and "random" not in golden.case["tags"]
]


def arrays(tree):
    """The tree with NumPy arrays, as a trainer without torch sends it."""
    if isinstance(tree, torch.Tensor):
        return tree.numpy()
    if isinstance(tree, dict):
        return {key: arrays(value) for key, value in tree.items()}
    return [arrays(value) for value in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("golden", ANCHORED, ids=str)
def test_targets_are_upstreams(client, golden):
    """Labels, weights, boxes and indices are those that MMDetection's get_targets made."""
    call = golden.call()
    sizes = [one.shape[2:] for one in call["pred"]["cls_scores"]]
    seed = call.get("seed", 0)
    found = client.assign(golden.config, arrays(call["target"]), featmap_sizes=sizes, seed=seed)
    structure = golden.expected["structure"]["targets"]

    assert found["avg_factor"] == structure["avg_factor"]["$py"]
    for ours, theirs in [
        *((name, name) for name in ("labels", "label_weights", "bbox_targets", "bbox_weights")),
        ("pos_gt_inds", "pos_assigned_gt_inds"),
    ]:
        for name, value in leaves(structure[theirs], found[ours]):
            expected = golden.tensor(golden.expected["outputs"][name]["key"]).numpy()
            np.testing.assert_allclose(
                value.reshape(expected.shape), expected, rtol=2e-5, atol=1e-6
            )


def test_given_anchors_are_as_good_as_sizes(client):
    """The anchors that an assignment returned, sent instead of sizes, give the same targets."""
    target = arrays(truth(2, 32, 32))
    by_sizes = client.assign(RETINA, target, featmap_sizes=SIZES, with_anchors=True)
    by_anchors = client.assign(RETINA, target, anchors=by_sizes["anchors"])

    for a, b in zip(by_sizes["labels"], by_anchors["labels"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_assigner_alone(client):
    """An assigner's config gives each prior's object, here the first prior's the first box."""
    boxes = np.array([[0.0, 0, 8, 8], [16, 16, 24, 24]])
    target = {"gt_bboxes": [boxes], "gt_labels": [np.array([3, 5])], "img_metas": [{}]}
    priors = np.array([[0.0, 0, 8, 7], [100, 100, 108, 108], [17, 16, 24, 24]], np.float32)
    found = client.assign(MAX_IOU, target, anchors=[priors])

    assert found["gt_inds"][0].tolist() == [1, 0, 2]
    assert found["labels"][0].tolist() == [3, -1, 5]
    assert found["max_overlaps"][0][0] == pytest.approx(7 / 8)


def test_heads_with_losses_of_their_own(client):
    """SSDHead, whose losses are not its config's to choose, can be asked for its targets, too."""
    target = arrays(truth(1, 8, 16))
    found = client.assign(SSD, target, featmap_sizes=[[1, 2], [1, 1]])

    assert [one.shape for one in found["labels"]] == [(1, 8), (1, 4)]
    assert found["avg_factor"] >= 1


def test_labels_of_any_width(client):
    """JAX's int32 labels, and narrower ones, are class indices like any other."""
    target = arrays(truth(1, 32, 32))
    wide = client.assign(RETINA, target, featmap_sizes=SIZES)
    target["gt_labels"] = [target["gt_labels"][0].astype(np.int8)]

    for config in (RETINA | {"num_classes": 300}, RETINA):
        found = client.assign(config, target, featmap_sizes=np.array(SIZES))
        np.testing.assert_array_equal(found["pos_inds"][0], wide["pos_inds"][0])


def test_a_loss_that_pairs_everything_is_refused_in_a_head(client):
    """What a loss refuses to be asked for alone, a head's config cannot ask it for either."""
    config = RETINA | {"loss_bbox": {"type": "SeesawLoss"}}
    target = arrays(truth(1, 32, 32))
    pred = {
        "cls_scores": [np.zeros((1, 2, *size), np.float32) for size in SIZES],
        "bbox_preds": [np.zeros((1, 4, *size), np.float32) for size in SIZES],
    }

    with pytest.raises(lossclient.RequestError):
        client.compute(config, pred, target)


def test_the_same_seed_is_the_same_sample(client):
    """A random sampler chooses by the call's seed and nothing else."""
    sampler = {"type": "RandomSampler", "num": 6, "pos_fraction": 0.5, "add_gt_as_proposals": False}
    config = head("RPNHead", MAX_IOU, num_classes=1, train_cfg={"sampler": sampler})
    target = arrays(truth(1, 32, 32))
    first, again, other = (
        client.assign(config, target, featmap_sizes=SIZES, seed=seed)["neg_inds"][0].tolist()
        for seed in (7, 7, 8)
    )

    assert first == again
    assert first != other


SIZED = {"featmap_sizes": SIZES}


@pytest.mark.parametrize(
    ("config", "change", "options", "said"),
    [
        (RETINA, {}, {"featmap_sizes": [[4, 4]]}, "featmap_sizes: must be a list .* here 2"),
        (RETINA, {}, {"featmap_sizes": [[10**6, 10**6], [2, 2]]}, r"not make over \d+ anchors"),
        (RETINA, {}, {}, "featmap_sizes: must be a list"),
        (RETINA, {"gt_labels": [np.array([0, 7])]}, SIZED, r"gt_labels\[0\]: .* in 0\.\.1; given"),
        (RETINA, {"gt_labels": [np.array([0])]}, SIZED, r"gt_labels\[0\]: must be \[2\]"),
        (
            RETINA,
            {"gt_bboxes": [np.array([[4.0, 0, 2, 2], [0, 0, 1, 1]])]},
            SIZED,
            r"gt_bboxes\[0\]\[0\]: must be x1, y1, x2, y2",
        ),
        (RETINA, {"img_metas": [{"img_shape": [32, 32]}]}, SIZED, r"img_metas\[0\]\.pad_shape"),
        (
            RETINA,
            {},
            {"anchors": [np.zeros((3, 4)), np.zeros((3, 3))]},
            r"anchors\[1\]: .* \[n, 4\]",
        ),
        ({"type": "L1Loss"}, {}, SIZED, "must be a head over anchors, or an assigner"),
        (MAX_IOU, {}, SIZED, "anchors: an assigner needs its priors"),
        ({"type": "NoAssigner"}, {}, SIZED, "of.type: no loss named 'NoAssigner'"),
    ],
)
def test_what_does_not_fit_is_refused(client, config, change, options, said):
    """The refusal names the image and the field."""
    target = arrays(truth(1, 32, 32)) | change

    with pytest.raises(lossclient.RequestError, match=said):
        client.assign(config, target, **options)
