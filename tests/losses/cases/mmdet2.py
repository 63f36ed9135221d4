"""MMDetection 2.24.1's losses where they differ from 3.3.0's: the same values, less is taken."""

from dataclasses import replace

from tests.losses.cases import focal, gfocal, heatmap, regression

CHANGED = ("L1Loss", "SmoothL1Loss", "FocalLoss", "QualityFocalLoss", "GaussianFocalLoss")


def as_of_2(case):
    """The case of 3.3.0 under the other name."""
    return replace(case, config=case.config | {"type": f"mmdet2.{case.config['type']}"})


def is_old(case):
    """Whether 2.24.1 has this form of a loss."""
    inputs, config = case.inputs(2), case.config
    if config["type"] == "FocalLoss":
        return inputs["target"].dim() == 1
    if config["type"] == "QualityFocalLoss":
        return isinstance(inputs["target"], list)
    return not {"pos_inds", "pos_weight", "neg_weight"} & (inputs.keys() | config.keys())


CASES = [
    as_of_2(case)
    for family in (regression, focal, gfocal, heatmap)
    for case in family.CASES
    if case.config["type"] in CHANGED and is_old(case)
]
