"""The cases of all losses, one module a family."""

from tests.losses.cases import (
    accuracy,
    cornernet,
    cross_entropy,
    ddq,
    dice,
    distill,
    embedding,
    eqlv2,
    focal,
    gfocal,
    ghm,
    heatmap,
    iou,
    margin,
    mmdet2,
    regression,
    seesaw,
    varifocal,
)

FAMILIES = [
    accuracy,
    cornernet,
    cross_entropy,
    ddq,
    dice,
    distill,
    embedding,
    eqlv2,
    focal,
    gfocal,
    ghm,
    heatmap,
    iou,
    margin,
    mmdet2,
    regression,
    seesaw,
    varifocal,
]

CASES = [case for family in FAMILIES for case in family.CASES]
