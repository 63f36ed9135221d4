"""Heads over anchors, and assignment by itself, on maps that gradcheck can afford."""

from collections.abc import Callable
from typing import Any

import torch

from tests.losses.case import Case, Inputs, normal
from tests.losses.cases.heads_grids import maps, truth

SIZES = [(4, 4), (2, 2)]
GENERATOR = {
    "type": "AnchorGenerator",
    "ratios": [1.0],
    "octave_base_scale": 2,
    "scales_per_octave": 1,
    "strides": [8, 16],
}
MAX_IOU = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.0}


def head(name: str, assigner: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The config of a head of two classes."""
    train = {"assigner": assigner, "allowed_border": -1, "pos_weight": -1}
    return {
        "type": name,
        "num_classes": 2,
        "anchor_generator": GENERATOR,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "train_cfg": train | more.pop("train_cfg", {}),
    } | more


def inputs(**channels: int) -> Callable[[int], Inputs]:
    """Predictions of so many channels, and the ground truth."""
    return lambda rows: {
        "pred": {
            name: maps(rows, [count] * 2, SIZES, seed=10 * i)
            for i, (name, count) in enumerate(channels.items())
        },
        "target": truth(rows, 32, 32),
    }


def priors(rows: int) -> Inputs:
    """The ground truth, priors of two levels, and scores that this assigner does not look at."""
    places = [(8.0 * x, 8.0 * y) for y in range(4) for x in range(4)]
    levels = [
        torch.tensor([[x - s, y - s, x + s, y + s] for x, y in places], dtype=torch.float64)
        for s in (6.0, 9.0)
    ]
    return {
        "pred": {"scores": [normal(32, 2, seed=row) for row in range(rows)]},
        "target": truth(rows, 32, 32),
        "anchors": levels,
    }


def assigned(
    target: dict[str, Any], anchors: list[torch.Tensor], **_: Any
) -> dict[str, list[torch.Tensor]]:
    """The object of each prior by the assigner's definition, a prior at a time."""
    every = torch.cat(anchors).tolist()
    found: dict[str, list[torch.Tensor]] = {"gt_inds": [], "labels": [], "max_overlaps": []}
    for boxes, labels in zip(target["gt_bboxes"], target["gt_labels"], strict=True):
        # As MMDetection's, boxes are float32.
        own = owners_of(every, boxes.float().tolist())
        found["gt_inds"].append(torch.tensor([k + 1 for k in own]))
        found["labels"].append(torch.tensor([int(labels[k]) if k >= 0 else -1 for k in own]))
        best = [max((iou(a, box) for box in boxes.float().tolist()), default=0.0) for a in every]
        found["max_overlaps"].append(torch.tensor(best))
    return found


def owners_of(anchors: list[list[float]], boxes: list[list[float]]) -> list[int]:
    """The object of each anchor, or -1 where there is none."""
    overlaps = [[iou(anchor, box) for box in boxes] for anchor in anchors]
    owners = [
        max(range(len(boxes)), key=row.__getitem__) if boxes and max(row) >= 0.5 else -1
        for row in overlaps
    ]
    for k in range(len(boxes)):
        best = max(row[k] for row in overlaps)
        owners = [k if row[k] == best else own for own, row in zip(owners, overlaps, strict=True)]
    return owners


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes."""
    wide, high = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


ATSS = {"type": "ATSSAssigner", "topk": 4}
OWN = "targets depend on the predictions, which no gradient goes through"

CASES = [
    Case(head("AnchorHead", MAX_IOU), inputs(cls_scores=2, bbox_preds=4)),
    Case(
        head("RetinaHead", MAX_IOU, loss_cls={"type": "FocalLoss", "use_sigmoid": True}, reg_decoded_bbox=True,
             loss_bbox={"type": "GIoULoss"}),
        inputs(cls_scores=2, bbox_preds=4),
    ),
    Case(
        head("RPNHead", MAX_IOU, num_classes=1, train_cfg={
            "sampler": {"type": "RandomSampler", "num": 8, "pos_fraction": 0.5,
                        "add_gt_as_proposals": False}}),
        inputs(cls_scores=1, bbox_preds=4),
    ),
    Case(
        head("ATSSHead", ATSS, loss_cls={"type": "FocalLoss", "use_sigmoid": True}, loss_bbox={"type": "GIoULoss"}),
        inputs(cls_scores=2, bbox_preds=4, centernesses=1),
    ),
    Case(
        head("GFLHead", ATSS, loss_cls={"type": "QualityFocalLoss", "use_sigmoid": True}, loss_bbox={"type": "GIoULoss"},
             bbox_coder={"type": "DistancePointBBoxCoder"}, reg_max=4),
        inputs(cls_scores=2, bbox_preds=20),
        stops=OWN,
    ),
    Case(
        head("PAAHead", {"type": "MaxIoUAssigner", "pos_iou_thr": 0.1, "neg_iou_thr": 0.1,
                         "min_pos_iou": 0.0},
             loss_cls={"type": "FocalLoss", "use_sigmoid": True}, loss_bbox={"type": "GIoULoss"}),
        inputs(cls_scores=2, bbox_preds=4, iou_preds=1),
        stops=OWN,
    ),
    Case({"type": "Assign", "of": MAX_IOU | {"neg_iou_thr": 0.5}}, priors, assigned),
]  # fmt: skip
