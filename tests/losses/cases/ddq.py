"""The auxiliary loss of DDQ-DETR."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, uniform

EPS = torch.finfo(torch.float32).eps


def apart(rows: int) -> Inputs:
    """Images of 5 queries on the left and 2 objects on the right, every third without objects.

    The gradient of a quality is stopped: only where none overlaps is the rest the derivative.
    test_ddq.py has those that do.
    """
    counts = [0 if i % 3 == 2 else 2 for i in range(rows)]
    return {
        "pred": {
            "cls_scores": 0.1 + 0.8 * uniform(rows, 5, 3),
            "bbox_preds": boxes(uniform(rows, 5, 4, seed=1)),
        },
        "target": {
            "gt_bboxes": [300 + boxes(uniform(count, 4, seed=2)) for count in counts],
            "gt_labels": [torch.arange(count) for count in counts],
            "img_metas": [{"img_shape": [480, 640]} for _ in counts],
        },
    }


def boxes(given: Tensor) -> Tensor:
    """Numbers in [0, 1) [..., 4] as corners and sizes of boxes of 20 to 120 pixels."""
    corner = 100 * given[..., :2]
    return torch.cat([corner, corner + 20 + 100 * given[..., 2:]], -1)


def nothing_found(pred: dict[str, Tensor], target: dict[str, list[Any]]) -> dict[str, Tensor]:
    """Where no query overlaps an object, all are to score nothing, and no box counts."""
    scores = [
        sum(-s * s * math.log(1 - s) for s in image.flatten().tolist()) / (1 + EPS) * bool(len(own))
        for image, own in zip(pred["cls_scores"], target["gt_labels"], strict=True)
    ]
    return {
        "aux_loss_cls": torch.tensor(scores, dtype=torch.float64),
        "aux_loss_bbox": torch.zeros(len(scores)),
    }


CASES = [Case({"type": "DDQAuxLoss"}, apart, nothing_found)]
