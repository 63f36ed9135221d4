"""Configs and inputs of the heads that are measured; no project code, so that upstream reads them too."""

import torch

#: Maps of 2 images of 800 x 1333, padded to 800 x 1344.
SIZES = {8: (100, 168), 16: (50, 84), 32: (25, 42), 64: (13, 21), 128: (7, 11), 4: (200, 336)}
METAS = [
    {
        "img_shape": [800, 1333],
        "pad_shape": [800, 1344],
        "batch_input_shape": [800, 1344],
    }
] * 2


def anchored(kind, classes, generator, strides, train, **losses):
    """The config of a head over anchors."""
    return {
        "type": kind,
        "in_channels": 1,
        "feat_channels": 1,
        "num_classes": classes,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [0.5, 1.0, 2.0],
            "strides": strides,
        }
        | generator,
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "train_cfg": {"allowed_border": -1, "pos_weight": -1, "debug": False} | train,
        **losses,
    }


def assigner(positive, negative, least):
    """MaxIoUAssigner with the thresholds of a head's own config file."""
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": least,
        "ignore_iof_thr": -1,
    }


CONFIGS = {
    "RetinaHead": anchored(
        "RetinaHead",
        80,
        {"octave_base_scale": 4, "scales_per_octave": 3},
        [8, 16, 32, 64, 128],
        {"assigner": assigner(0.5, 0.4, 0.0), "sampler": {"type": "PseudoSampler"}},
        loss_cls={"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25},
        loss_bbox={"type": "L1Loss", "loss_weight": 1.0},
    ),
    "RPNHead": anchored(
        "RPNHead",
        1,
        {"scales": [8]},
        [4, 8, 16, 32, 64],
        {
            "assigner": assigner(0.7, 0.3, 0.3) | {"match_low_quality": True},
            "sampler": {
                "type": "RandomSampler",
                "num": 256,
                "pos_fraction": 0.5,
                "neg_pos_ub": -1,
                "add_gt_as_proposals": False,
            },
        },
        loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        loss_bbox={"type": "L1Loss", "loss_weight": 1.0},
    ),
    "CornerHead": {
        "type": "CornerHead",
        "num_classes": 80,
        "in_channels": 4,
        "num_feat_levels": 2,
        "corner_emb_channels": 1,
        "loss_heatmap": {"type": "GaussianFocalLoss", "alpha": 2.0, "gamma": 4.0},
        "loss_embedding": {
            "type": "AssociativeEmbeddingLoss",
            "pull_weight": 0.1,
            "push_weight": 0.1,
        },
        "loss_offset": {"type": "SmoothL1Loss", "beta": 1.0},
    },
}


def boxes(name):
    """Twelve objects an image, and their classes; a region proposal network has one."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        corner = torch.rand(12, 2, generator=generator) * torch.tensor([1000.0, 500.0])
        size = 20 + 280 * torch.rand(12, 2, generator=generator)
        found.append(torch.cat([corner, corner + size], 1))
    classes = CONFIGS[name]["num_classes"]
    return found, [torch.randint(0, classes, (12,), generator=generator) for _ in found]


def predictions(name):
    """The maps of a head, as its network might give them early in training."""
    generator = torch.Generator().manual_seed(1)

    def maps(channels, sizes, bias=0.0):
        return [bias + 0.5 * torch.randn(2, channels, *size, generator=generator) for size in sizes]

    if name == "CornerHead":
        sizes = [(200, 336)] * 2
        channels = {"heats": 80, "embs": 1, "offs": 2}
        return {
            f"{corner}_{kind}": maps(count, sizes, -2.2 if kind == "heats" else 0.0)
            for kind, count in channels.items()
            for corner in ("tl", "br")
        }
    config = CONFIGS[name]
    sizes = [SIZES[stride] for stride in config["anchor_generator"]["strides"]]
    per_place = 9 if name == "RetinaHead" else 3
    return {
        "cls_scores": maps(per_place * config["num_classes"], sizes, -4.6),
        "bbox_preds": maps(per_place * 4, sizes),
    }


def total(losses):
    """The sum of all losses of a head."""
    return sum(sum(one) if isinstance(one, list) else one for one in losses.values())
