"""The loss dicts of MMDetection 3.x's own config files work as they are written there."""

import pytest
import torch

from tests.losses.calls import answer

N = 6
BOXES = torch.tensor([[0.0, 0, 4, 4]]).repeat(N, 1) + torch.rand(N, 4)
BOX = {"pred": BOXES, "target": BOXES.flip(0)}
UNIT = {"pred": torch.rand(N, 1), "target": torch.rand(N, 1)}


def scores(classes, labels=None):
    """Scores, and class indices below `labels`."""
    return {"pred": torch.randn(N, classes), "target": torch.arange(N) % (labels or classes)}


def quality():
    """Scores of 80 classes, labels and qualities."""
    return {"pred": torch.randn(N, 80), "target": [torch.arange(N), torch.rand(N)]}


def masks():
    """Mask logits [N, 80, 28, 28], masks, and their classes."""
    return {
        "pred": torch.randn(N, 80, 28, 28),
        "target": torch.ones(N, 28, 28),
        "weight": torch.arange(N),
    }


SIGMOID_FOCAL = {
    "type": "FocalLoss",
    "use_sigmoid": True,
    "gamma": 2.0,
    "alpha": 0.25,
    "loss_weight": 1.0,
}
CONFIGS = [
    ("retinanet", SIGMOID_FOCAL, scores(80, 81)),
    ("retinanet", {"type": "L1Loss", "loss_weight": 1.0}, BOX),
    ("fcos", {"type": "IoULoss", "loss_weight": 1.0}, BOX),
    ("fcos", {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}, UNIT),
    (
        "gfl",
        {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        quality(),
    ),
    (
        "gfl",
        {"type": "DistributionFocalLoss", "loss_weight": 0.25},
        {"pred": torch.randn(N, 17), "target": 15 * torch.rand(N)},
    ),
    ("gfl", {"type": "GIoULoss", "loss_weight": 2.0}, BOX),
    (
        "vfnet",
        {
            "type": "VarifocalLoss",
            "use_sigmoid": True,
            "alpha": 0.75,
            "gamma": 2.0,
            "iou_weighted": True,
            "loss_weight": 1.0,
        },
        {"pred": torch.randn(N, 80), "target": torch.rand(N, 80)},
    ),
    ("vfnet", {"type": "GIoULoss", "loss_weight": 1.5}, BOX),
    (
        "mask-rcnn",
        {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        scores(81),
    ),
    ("mask-rcnn", {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0}, masks()),
    (
        "seesaw",
        {"type": "SeesawLoss", "p": 0.8, "q": 2.0, "num_classes": 1203, "loss_weight": 1.0},
        scores(1205, 1204),
    ),
    (
        "cornernet",
        {"type": "GaussianFocalLoss", "alpha": 2.0, "gamma": 4.0, "loss_weight": 1},
        {"pred": torch.rand(1, 80, 8, 8), "target": torch.rand(1, 80, 8, 8)},
    ),
    (
        "cornernet",
        {"type": "AssociativeEmbeddingLoss", "pull_weight": 0.10, "push_weight": 0.10},
        {
            "pred": torch.randn(1, 1, 8, 8),
            "target": torch.randn(1, 1, 8, 8),
            "match": [[[[1, 2], [4, 4]], [[0, 0], [7, 7]]]],
        },
    ),
    ("cornernet", {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1}, BOX),
    ("libra-rcnn", {"_delete_": True, "type": "BalancedL1Loss", "_scope_": "mmdet"}, BOX),
]


@pytest.mark.parametrize(
    ("config", "inputs"),
    [pytest.param(*rest, id=f"{name}-{rest[0]['type']}") for name, *rest in CONFIGS],
)
def test_a_config_files_loss_works_unchanged(config, inputs):
    """Each loss dict of a detector's config gives a finite loss and a gradient."""
    result = answer(config, inputs)

    assert all(loss.isfinite().all() for loss in result.losses.values())
    assert result.grad.isfinite().all()
    assert result.grad.any()
