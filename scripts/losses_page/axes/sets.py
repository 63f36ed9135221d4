"""Predictions without an order, each matched with one object or with none."""

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Plot, numbers, outputs

TITLE = "Sets"

LABELS = torch.tensor([0, 1])


def wandering(x: Tensor) -> Inputs:
    """Two objects, and two queries that are rather sure of one class each; the second is at x."""
    moved = torch.stack([x, 0 * x + 0.5, 0 * x + 0.2, 0 * x + 0.2])
    boxes = torch.stack([numbers(0.45, 0.5, 0.2, 0.2), moved]).view(1, 2, 4)
    logits = numbers([[1, 0, -2], [0, 1, -2]])
    truth = numbers([0.3, 0.5, 0.2, 0.2], [0.7, 0.5, 0.2, 0.2])
    return {
        "pred": {"logits": logits, "boxes": boxes},
        "target": {"labels": [LABELS], "boxes": [truth]},
    }


def aside(x: Tensor) -> Inputs:
    """Four queries around an object of 20 × 20 pixels, one of them x too far to the right."""
    truth = numbers([40, 40, 60, 60])
    steady = torch.cat([truth + 4, truth - 6, truth + 30])
    moved = truth + x * numbers([1, 0, 1, 0])
    return {
        "pred": {
            "cls_scores": numbers([[0.6], [0.5], [0.3], [0.1]]),
            "bbox_preds": torch.cat([moved, steady]).view(1, 4, 4),
        },
        "target": {
            "gt_bboxes": [truth],
            "gt_labels": [LABELS[:1]],
            "img_metas": [{"img_shape": [100, 100]}],
        },
    }


PLOTS = {
    "HungarianLoss": Plot(
        caption="Objects at 0.3 and 0.7; one query stays at 0.45, and one, rather of the class at 0.7, "
        "wanders. Left of the step the two change places.",
        axis="center x of the wandering query",
        span=(0.0, 1.0),
        inputs=wandering,
        lines=outputs("loss_cls", "loss_bbox", "loss_giou"),
    ),
    "DDQAuxLoss": Plot(
        caption="Four queries near one object, all of which are to learn it; one slides over it. "
        "Their weights t move too, but have no gradient.",
        axis="shift of a query's box, pixels",
        span=(-30, 30),
        inputs=aside,
        lines=outputs("aux_loss_cls", "aux_loss_bbox"),
    ),
}
