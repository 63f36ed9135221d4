"""DDQ-DETR's auxiliary loss: its matching, qualities and gradients, and what it refuses."""

import itertools
import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.case import sigmoid, uniform
from tests.losses.cases.ddq import EPS, apart, boxes

TOPK = 2
CONFIG = {
    "type": "DDQAuxLoss",
    "train_cfg": {"assigner": {"type": "TopkHungarianAssigner", "topk": TOPK}},
}
SIZE = 480, 640


def crowded(images=3, queries=6, objects=2):
    """Images whose queries and objects lie on top of each other."""
    return {
        "pred": {
            "cls_scores": 0.1 + 0.8 * uniform(images, queries, 3),
            "bbox_preds": boxes(uniform(images, queries, 4, seed=1)),
        },
        "target": {
            "gt_bboxes": [boxes(uniform(objects, 4, seed=2 + i)) for i in range(images)],
            "gt_labels": [(torch.arange(objects) + i) % 3 for i in range(images)],
            "img_metas": [{"img_shape": list(SIZE), "flip": False} for _ in range(images)],
        },
    }


def overlaps(a, b):
    """IoU and GIoU of two boxes."""
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    shared = max(w, 0) * max(h, 0)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared
    w, h = (max(a[k + 2], b[k + 2]) - min(a[k], b[k]) for k in (0, 1))
    return shared / union, shared / union - (w * h - union) / (w * h)


def cost(score, query, found):
    """Of one query for one object."""
    p, (height, width) = sigmoid(score), SIZE
    focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
    sides = (width, height, width, height)
    distance = sum(abs(x - y) / side for x, y, side in zip(query, found, sides, strict=True))
    return 2 * focal + 5 * distance - 2 * overlaps(query, found)[1]


def by_hand(scores, queries, labels, objects):
    """Of the matched queries of one image their objects and qualities, by trying all matchings."""
    slots = [k for k in range(len(labels)) for _ in range(TOPK)]
    costs = [
        [cost(s[label], query, found) for label, found in zip(labels, objects, strict=True)]
        for s, query in zip(scores, queries, strict=True)
    ]
    best = min(
        itertools.permutations(range(len(queries)), len(slots)),
        key=lambda taken: sum(costs[q][k] for q, k in zip(taken, slots, strict=True)),
    )
    quality = {}
    for k, label in enumerate(labels):
        own = [q for q, slot in zip(best, slots, strict=True) if slot == k]
        ious = [overlaps(queries[q], objects[k])[0] for q in own]
        aligned = [scores[q][label] * iou**6 for q, iou in zip(own, ious, strict=True)]
        for q, one in zip(own, aligned, strict=True):
            quality[q] = k, one / (max(aligned) + 1e-7) * max(ious)
    return quality


def of_image(scores, queries, objects, labels):
    """Both losses of an image, its matched queries, and the sum of their qualities."""
    rows = (scores, queries, labels, objects)
    found = by_hand(*(tensor.tolist() for tensor in rows))
    taken, slots = list(found), [k for k, _ in found.values()]
    quality = torch.tensor([t for _, t in found.values()], dtype=torch.float64)
    classes, wanted = torch.full((len(scores),), 3), torch.zeros_like(scores[:, 0])
    classes[taken], wanted[taken] = labels[slots], quality
    of_scores = answer(
        {"type": "QualityFocalLoss", "activated": True, "reduction": "sum"},
        {"pred": scores, "target": [classes, wanted]},
    )
    of_boxes = answer(
        {"type": "GIoULoss", "reduction": "sum", "loss_weight": 2.0},
        {"pred": queries[taken], "target": objects[slots], "weight": quality},
    )
    return of_scores, of_boxes, taken, float(quality.sum())


def test_two_queries_an_object():
    """The matching is the cheapest of all, and both losses and gradients are those of its qualities."""
    inputs = crowded()
    pred, target = inputs["pred"], inputs["target"]
    ours = answer(CONFIG, inputs)
    columns = (*pred.values(), target["gt_bboxes"], target["gt_labels"])
    parts = [of_image(*given) for given in zip(*columns, strict=True)]
    divisor = sum(quality for *_, quality in parts) * (1 + EPS)

    assert divisor > 1.1
    for i, (of_scores, of_boxes, taken, _) in enumerate(parts):
        others = [q for q in range(6) if q not in taken]
        assert_all_close(ours.losses["aux_loss_cls"][i], of_scores.loss / divisor)
        assert_all_close(ours.losses["aux_loss_bbox"][i], of_boxes.loss / divisor)
        assert_all_close(ours.grad["cls_scores"][i], of_scores.grad / divisor)
        assert_all_close(ours.grad["bbox_preds"][i][taken], of_boxes.grad / divisor)
        assert not ours.grad["bbox_preds"][i][others].any()


def test_more_objects_than_queries():
    """Upstream crashes; here each query is matched, and the objects that cost most are left out."""
    result = answer(CONFIG, crowded(images=2, queries=1, objects=3))

    assert result.losses["aux_loss_cls"].isfinite().all()
    assert result.losses["aux_loss_bbox"].all()


def test_a_nan_query_is_matched_last():
    """A box of NaN does not stop the matching, nor does it take an object from another query."""
    inputs = crowded()
    inputs["pred"]["bbox_preds"][:, 0] = torch.nan
    result = answer(CONFIG, inputs)

    assert result.losses["aux_loss_bbox"].isfinite().all()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"loss_cls": {"type": "FocalLoss"}}, "loss_cls"),
        ({"loss_cls": {"type": "QualityFocalLoss"}}, "loss_cls"),
        ({"loss_cls": {"type": "QualityFocalLoss", "gamma": 2}}, "loss_cls.gamma"),
        ({"loss_bbox": {"type": "L1Loss"}}, "loss_bbox"),
        ({"loss_bbox": {"type": "BoundedIoULoss"}}, "loss_bbox"),
        ({"loss_bbox": {"type": "GIoULoss", "reduction": "sum"}}, "loss_bbox"),
        ({"train_cfg": {"assigner": {"topk": 0}}}, "train_cfg.assigner.topk"),
        ({"train_cfg": {"assigner": {"type": "MaxIoUAssigner"}}}, "train_cfg"),
        ({"train_cfg": {"assigner": {"cls_cost": {}}}}, "train_cfg"),
        ({"train_cfg": {"assigner": 3}}, "train_cfg"),
        ({"train_cfg": {"sampler": {}}}, "train_cfg"),
    ],
    ids=str,
)
def test_configs_that_do_not_fit(config, field):
    """Losses and assigners that upstream could not use, or that are not served, are refused."""
    with pytest.raises(losswire.errors.RequestError, match=rf"config\.{field}: "):
        answer({"type": "DDQAuxLoss"} | config, apart(1))


def test_inputs_that_do_not_fit():
    """No logits, no image without a size, no label out of range, no matching without end."""
    for part, name, given, rule in (
        ("pred", "cls_scores", torch.full((1, 5, 3), 2.0), "must be in"),
        ("target", "img_metas", [{}], "must have an img_shape"),
        ("target", "img_metas", [{"img_shape": [0, 4]}], "must have an img_shape"),
        ("target", "gt_labels", [torch.tensor([0, 3])], "a class index must be"),
        ("target", "gt_labels", [torch.tensor([0])], r"must be \[1, 4\]"),
        ("target", "gt_bboxes", [], "must have one for each"),
    ):
        inputs = apart(1)
        with pytest.raises(losswire.errors.RequestError, match=rule):
            answer(CONFIG, inputs | {part: inputs[part] | {name: given}})
    with pytest.raises(losswire.errors.RequestError, match="must not make over"):
        answer(CONFIG, crowded(images=1, queries=4200, objects=4200))
