"""Heads of FCOS, FoveaBox, VarifocalNet and FSAF, on maps that gradcheck can afford."""

from torch import Tensor

from tests.losses.case import Case, Inputs, uniform
from tests.losses.cases.heads_grids import maps, truth

SIZES = [(4, 4), (2, 2)]
STRIDES = [8, 16]


def distances(rows: int, scale: float, seed: int) -> list[Tensor]:
    """Ways to the sides of each level, away from 0."""
    return [(0.2 + uniform(rows, 4, *size, seed=seed + i)) * scale for i, size in enumerate(SIZES)]


def fcos(rows: int) -> Inputs:
    """Two classes."""
    return {
        "pred": {
            "cls_scores": maps(rows, [2, 2], SIZES, seed=1),
            "bbox_preds": distances(rows, 12, seed=3),
            "centernesses": maps(rows, [1, 1], SIZES, seed=5),
        },
        "target": truth(rows, 32, 32),
    }


def fovea(rows: int) -> Inputs:
    """Two classes; logarithms of distances."""
    return {
        "pred": {
            "cls_scores": maps(rows, [2, 2], SIZES, seed=1),
            "bbox_preds": maps(rows, [4, 4], SIZES, seed=3),
        },
        "target": truth(rows, 32, 32),
    }


def vfnet(rows: int) -> Inputs:
    """Two classes, and distances twice."""
    return {
        "pred": {
            "cls_scores": maps(rows, [2, 2], SIZES, seed=1),
            "bbox_preds": distances(rows, 12, seed=3),
            "bbox_preds_refine": distances(rows, 12, seed=7),
        },
        "target": truth(rows, 32, 32),
    }


def fsaf(rows: int) -> Inputs:
    """Two classes, and distances in sizes of the anchor, over four."""
    return {
        "pred": {
            "cls_scores": maps(rows, [2, 2], SIZES, seed=1),
            "bbox_preds": distances(rows, 0.3, seed=3),
        },
        "target": truth(rows, 32, 32),
    }


FCOS = {
    "type": "FCOSHead",
    "num_classes": 2,
    "strides": STRIDES,
    "regress_ranges": [[-1, 10], [10, 1e8]],
    "loss_bbox": {"type": "GIoULoss"},
}

FOVEA = {
    "type": "FoveaHead",
    "num_classes": 2,
    "strides": STRIDES,
    "base_edge_list": [8, 16],
    "scale_ranges": [[1, 12], [8, 64]],
    "loss_bbox": {"type": "SmoothL1Loss", "beta": 0.11},
}

VFNET = {
    "type": "VFNetHead",
    "num_classes": 2,
    "anchor_generator": {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "octave_base_scale": 2,
        "scales_per_octave": 1,
        "center_offset": 0.0,
        "strides": STRIDES,
    },
    "strides": STRIDES,
    "regress_ranges": [[-1, 10], [10, 1e8]],
    "train_cfg": {
        "assigner": {"type": "ATSSAssigner", "topk": 3},
        "allowed_border": -1,
        "pos_weight": -1,
    },
}

FSAF = {
    "type": "FSAFHead",
    "num_classes": 2,
    "reg_decoded_bbox": True,
    "anchor_generator": {
        "type": "AnchorGenerator",
        "ratios": [1.0],
        "octave_base_scale": 1,
        "scales_per_octave": 1,
        "strides": STRIDES,
    },
    "bbox_coder": {"type": "TBLRBBoxCoder", "normalizer": 4.0},
    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "reduction": "none"},
    "loss_bbox": {"type": "GIoULoss", "reduction": "none"},
    "train_cfg": {
        "assigner": {
            "type": "CenterRegionAssigner",
            "pos_scale": 0.3,
            "neg_scale": 0.6,
            "min_pos_iof": 0.01,
        },
        "allowed_border": -1,
        "pos_weight": -1,
    },
}

OVERLAPS = "overlaps of predicted boxes are weights and targets"

CASES = [
    Case(FCOS, fcos),
    Case(FCOS | {"center_sampling": True, "norm_on_bbox": True}, fcos),
    Case(FOVEA, fovea),
    Case(VFNET, vfnet, stops=OVERLAPS),
    Case(VFNET | {"use_atss": False, "use_vfl": False}, vfnet, stops=OVERLAPS),
    Case(FSAF, fsaf),
]
