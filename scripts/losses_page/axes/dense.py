"""A class score at every place of an image, most of it background. FocalLoss is the one to try first."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one

TITLE = "Dense detection"

BINS = 5


def labelled(x: Tensor, label: int = 0) -> Inputs:
    """One logit of the only class, 0; the label 1 is background."""
    return {"pred": one(x), "target": torch.tensor([label])}


def of_quality(x: Tensor, quality: float = 1.0) -> Inputs:
    """The same with a quality at the class."""
    return {"pred": one(x), "target": numbers([quality])}


def listed(x: Tensor, quality: float = 1.0) -> Inputs:
    """The same as class index and quality."""
    return {"pred": one(x), "target": [torch.tensor([0]), numbers(quality)]}


def at(x: Tensor, distance: float = 2.0) -> Inputs:
    """Five bins, the middle one of which has the logit x."""
    middle = torch.eye(BINS, dtype=torch.float64)[2]
    return {"pred": (x * middle).view(1, BINS), "target": numbers(distance)}


NEGATIVE = partial(labelled, label=1)

FOCAL = Plot(
    caption="One logit, of an object or of background.",
    axis="logit",
    span=(-6, 6),
    inputs=labelled,
    lines=(
        Line("positive, gamma = 2"),
        Line("positive, gamma = 0", {"gamma": 0.0}),
        Line("negative, gamma = 2", inputs=NEGATIVE),
    ),
    top=2,
)

QUALITY = Plot(
    caption="One logit, and the quality that it should have.",
    axis="logit",
    span=(-6, 6),
    inputs=listed,
    lines=tuple(
        Line(f"quality {quality:g}", inputs=partial(listed, quality=quality))
        for quality in (1.0, 0.5, 0.0)
    ),
)

PLOTS = {
    "FocalLoss": FOCAL,
    "FocalCustomLoss": replace(FOCAL, params={"num_classes": 1}),
    "QualityFocalLoss": QUALITY,
    "VarifocalLoss": Plot(
        caption="One logit, and the quality that it should have; 0 is background.",
        axis="logit",
        span=(-6, 6),
        inputs=of_quality,
        lines=tuple(
            Line(f"q = {quality:g}", inputs=partial(of_quality, quality=quality))
            for quality in (1.0, 0.5, 0.0)
        ),
    ),
    "DistributionFocalLoss": Plot(
        caption="Five bins; the logit of the middle one, 2, with all others at 0.",
        axis="logit of bin 2",
        span=(-6, 6),
        inputs=at,
        lines=tuple(
            Line(f"distance {distance:g}", inputs=partial(at, distance=distance))
            for distance in (2.0, 2.5, 3.0)
        ),
    ),
    "mmdet2.FocalLoss": FOCAL,
    "mmdet2.QualityFocalLoss": QUALITY,
}
