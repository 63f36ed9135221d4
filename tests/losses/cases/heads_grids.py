"""Heads of SSD and YOLO, on maps that gradcheck can afford."""

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, uniform, whole


def truth(rows: int, height: int, width: int) -> Inputs:
    """Ground truth of so many images, two objects in each but the last, which has none."""
    counts = [0 if row == rows - 1 and row else 2 for row in range(rows)]
    return {
        "gt_bboxes": [_boxes(count, height, width, seed=row) for row, count in enumerate(counts)],
        "gt_labels": [whole(count, high=1, seed=row) for row, count in enumerate(counts)],
        "img_metas": [{"img_shape": [height, width], "pad_shape": [height, width]}] * rows,
    }


def _boxes(count: int, height: int, width: int, seed: int) -> Tensor:
    limit = torch.tensor([width, height], dtype=torch.float64)
    corner = uniform(count, 2, seed=seed) * 0.5 * limit
    size = (0.25 + 0.25 * uniform(count, 2, seed=seed + 50)) * limit
    return torch.cat((corner, corner + size), 1)


def maps(rows: int, channels: list[int], sizes: list[tuple[int, int]], seed: int) -> list[Tensor]:
    """Predictions of each level."""
    levels = zip(channels, sizes, strict=True)
    return [normal(rows, depth, *size, seed=seed + i) for i, (depth, size) in enumerate(levels)]


def ssd(rows: int) -> Inputs:
    """Four anchors of a place, two classes and background."""
    sizes = [(1, 2), (1, 1)]
    return {
        "pred": {
            "cls_scores": maps(rows, [12, 12], sizes, seed=1),
            "bbox_preds": maps(rows, [16, 16], sizes, seed=3),
        },
        "target": truth(rows, 8, 16),
    }


def yolox(rows: int) -> Inputs:
    """Two classes."""
    sizes = [(4, 4), (2, 2)]
    return {
        "pred": {
            "cls_scores": maps(rows, [2, 2], sizes, seed=1),
            "bbox_preds": maps(rows, [4, 4], sizes, seed=3),
            "objectnesses": maps(rows, [1, 1], sizes, seed=5),
        },
        "target": truth(rows, 32, 32),
    }


def yolov3(rows: int) -> Inputs:
    """One anchor of a place, two classes."""
    sizes = [(1, 1), (2, 2)]
    return {"pred": {"pred_maps": maps(rows, [7, 7], sizes, seed=1)}, "target": truth(rows, 16, 16)}


SSD = {
    "type": "SSDHead",
    "num_classes": 2,
    "anchor_generator": {
        "type": "SSDAnchorGenerator",
        "scale_major": False,
        "input_size": 16,
        "min_sizes": [4, 8],
        "max_sizes": [8, 12],
        "strides": [8, 16],
        "ratios": [[2], [2]],
    },
    "train_cfg": {
        "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5},
        "sampler": {"type": "PseudoSampler"},
        "allowed_border": -1,
        "pos_weight": -1,
        "smoothl1_beta": 1.0,
        "neg_pos_ratio": 1,
    },
}

YOLOX = {
    "type": "YOLOXHead",
    "num_classes": 2,
    "strides": [8, 16],
    "train_cfg": {"assigner": {"type": "SimOTAAssigner", "center_radius": 2.5}},
}

YOLOV3 = {
    "type": "YOLOV3Head",
    "num_classes": 2,
    "anchor_generator": {
        "type": "YOLOAnchorGenerator",
        "base_sizes": [[[10, 8]], [[5, 6]]],
        "strides": [16, 8],
    },
    "featmap_strides": [16, 8],
    "one_hot_smoother": 0.1,
    "train_cfg": {
        "assigner": {
            "type": "GridAssigner",
            "pos_iou_thr": 0.5,
            "neg_iou_thr": 0.5,
            "min_pos_iou": 0,
        }
    },
}

CASES = [
    Case(SSD, ssd),
    Case(YOLOX, yolox, stops="the target of a score is the overlap of the predicted box"),
    Case(
        YOLOX | {"use_l1": True, "loss_bbox": {"type": "GIoULoss", "reduction": "sum"}},
        yolox,
        stops="the target of a score is the overlap of the predicted box",
    ),
    Case(YOLOV3, yolov3),
]
