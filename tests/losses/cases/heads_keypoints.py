"""Heads of key points and of sets, on maps that gradcheck can afford."""

import torch

from tests.losses.case import Case, Inputs, normal, uniform, whole


def truth(rows: int, height: int, width: int) -> Inputs:
    """Ground truth of so many images: 2, 1, 0, 2, ... objects of two classes."""
    counts = [2 - row % 3 for row in range(rows)]
    corners = [uniform(count, 2, seed=row) / 2 for row, count in enumerate(counts)]
    sizes = [uniform(count, 2, seed=row + 50) / 4 + 0.2 for row, count in enumerate(counts)]
    scale = torch.tensor([width, height] * 2, dtype=torch.float64)
    return {
        "gt_bboxes": [
            torch.cat((corner, corner + size), 1) * scale
            for corner, size in zip(corners, sizes, strict=True)
        ],
        "gt_labels": [whole(count, high=1, seed=row) for row, count in enumerate(counts)],
        "img_metas": [{"img_shape": [height, width], "batch_input_shape": [height, width]}] * rows,
    }


def corner(embedding: int, levels: int):
    """Maps of corners of 3 x 4 cells, in two classes."""
    channels = {"heats": 2, "embs": embedding, "offs": 2}

    def inputs(rows: int) -> Inputs:
        names = [f"{kind}_{of}" for of in channels for kind in ("tl", "br") if channels[of]]
        return {
            "pred": {
                name: [
                    normal(rows, channels[name[3:]], 3, 4, seed=10 * level + i)
                    for level in range(levels)
                ]
                for i, name in enumerate(names)
            },
            "target": truth(rows, 12, 16),
        }

    return inputs


def center(rows: int) -> Inputs:
    """Maps of centres of 3 x 4 cells, in two classes."""
    return {
        "pred": {
            "center_heatmap_preds": [0.1 + 0.8 * uniform(rows, 2, 3, 4, seed=1)],
            "wh_preds": [normal(rows, 2, 3, 4, seed=2)],
            "offset_preds": [normal(rows, 2, 3, 4, seed=3)],
        },
        "target": truth(rows, 12, 16),
    }


def detr(layers: int, scores: int):
    """Three queries, which are fewer than none of the images' objects."""

    def inputs(rows: int) -> Inputs:
        boxes = 0.2 + 0.6 * uniform(rows, layers, 3, 4, seed=2)
        return {
            "pred": {
                "all_layers_cls_scores": normal(rows, layers, 3, scores, seed=1).transpose(0, 1),
                "all_layers_bbox_preds": boxes.transpose(0, 1),
            },
            "target": truth(rows, 30, 40),
        }

    return inputs


CORNER = {"type": "CornerHead", "num_classes": 2}

CENTER = {"type": "CenterNetHead", "num_classes": 2}

DETR = {"type": "DETRHead", "num_classes": 2}

FOCAL = {
    "loss_cls": {"type": "FocalLoss"},
    "train_cfg": {
        "assigner": {"type": "HungarianAssigner", "match_costs": [{"type": "FocalLossCost"}]}
    },
}

QUALITY = FOCAL | {"loss_cls": {"type": "QualityFocalLoss"}}

CASES = [
    Case(CORNER, corner(embedding=1, levels=2)),
    Case(CORNER | {"num_feat_levels": 1, "corner_emb_channels": 0}, corner(embedding=0, levels=1)),
    Case(CENTER, center),
    Case(DETR, detr(layers=2, scores=3)),
    Case(DETR | FOCAL, detr(layers=1, scores=2)),
    Case(
        DETR | QUALITY,
        detr(layers=1, scores=2),
        stops="the quality that a score shall have is no function of the box",
    ),
]
