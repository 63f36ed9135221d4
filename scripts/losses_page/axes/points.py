"""Heat maps, keypoints, and corners that find each other. GaussianFocalLoss is the one for centers."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, outputs

TITLE = "Heat maps and keypoints"


def heat(x: Tensor, truth: float = 1.0) -> Inputs:
    """One probability, and the heat map there."""
    return {"pred": x.view(1, 1, 1, 1), "target": numbers([[[truth]]])}


def offset(x: Tensor) -> Inputs:
    """One coordinate that is x too large."""
    return {"pred": one(x), "target": numbers([0])}


def height(x: Tensor, truth: float = 1.0) -> Inputs:
    """One pixel of a heat map that is x too high."""
    return {"pred": one(x + truth), "target": numbers([truth])}


def keypoint(x: Tensor) -> Inputs:
    """A keypoint that is x pixels off, of an object of 100 × 100."""
    pred = torch.stack([x, 0 * x]).view(1, 1, 2)
    return {"pred": pred, "target": 0 * pred.detach(), "area": numbers(10_000)}


def tagged(x: Tensor) -> Inputs:
    """Two objects: the tags of one are 0 and x, those of the other 1 and 1."""
    one_and_other = torch.stack([x, 0 * x + 1]).view(1, 2)
    return {"pred": numbers([0, 1]), "target": one_and_other, "mask": torch.ones(1, 2).bool()}


def embedded(x: Tensor) -> Inputs:
    """The same in maps of two cells."""
    made = tagged(x)
    return {
        "pred": made["pred"].view(1, 1, 1, 2),
        "target": made["target"].view(1, 1, 1, 2),
        "match": [[[[0, cell], [0, cell]] for cell in (0, 1)]],
    }


def cornered(x: Tensor) -> Inputs:
    """Two objects with right offsets and fair heat maps, and tags as above."""
    made, peaks = tagged(x), numbers([[3, -3, 3, -3]])
    maps, offsets = numbers([[[1, 0, 1, 0]]]), torch.zeros(1, 2, 2, dtype=torch.float64)
    tags = [made[name].view(1, 2, 1) for name in ("pred", "target")]
    heats = [peaks.view(1, 1, 2, 2)] * 2
    return {
        "pred": [*heats, *tags, offsets, offsets],
        "target": [*[maps.view(1, 1, 2, 2)] * 2, made["mask"], offsets, offsets],
    }


def shifted(x: Tensor, objects: int = 1) -> Inputs:
    """The offsets of corners, of which one is x cells off along one axis."""
    pred = torch.cat([x.view(1), x.new_zeros(2 * objects - 1)]).view(1, objects, 2)
    return {"pred": pred, "target": 0 * pred.detach(), "mask": torch.ones(1, objects).bool()}


def peak(*lines: Line) -> Plot:
    """One pixel of a heat map."""
    return Plot(
        caption="One pixel of a heat map, which is 1 at a peak, near it less, and 0 elsewhere.",
        axis="probability",
        span=(0.01, 0.99),
        inputs=heat,
        lines=lines
        or tuple(Line(f"y = {y:g}", inputs=partial(heat, truth=y)) for y in (1.0, 0.5, 0.0)),
        top=3,
        steepest=8,
    )


def tags(inputs: Any, lines: tuple[Line, ...]) -> Plot:
    """A tag that moves."""
    return Plot(
        caption="Two objects: the corners of one have the tags 0 and x, those of the other 1 and 1.",
        axis="tag of one corner",
        span=(-2, 6),
        inputs=inputs,
        lines=lines,
    )


GAUSSIAN = peak()

PLOTS = {
    "GaussianFocalLoss": GAUSSIAN,
    "AdaptiveWingLoss": Plot(
        caption="One pixel of a heat map that should be y.",
        axis="pred - y",
        span=(-1, 1),
        inputs=height,
        lines=tuple(Line(f"y = {y:g}", inputs=partial(height, truth=y)) for y in (1.0, 0.5, 0.0)),
    ),
    "WingLoss": Plot(
        caption="One coordinate of a landmark.",
        axis="pred - target, pixels",
        span=(-20, 20),
        inputs=offset,
        lines=(
            Line("omega = 10, epsilon = 2"),
            Line("omega = 5", {"omega": 5.0}),
            Line("epsilon = 0.5", {"epsilon": 0.5}),
        ),
    ),
    "OKSLoss": Plot(
        caption="A keypoint of an object of 100 × 100 pixels, with COCO's σ of three kinds.",
        axis="offset of the keypoint, pixels",
        span=(-60, 60),
        inputs=keypoint,
        lines=(
            Line("shoulder, sigma = 0.079", {"sigmas": [0.079]}),
            Line("eye, 0.025", {"sigmas": [0.025]}),
            Line("hip, 0.107", {"sigmas": [0.107]}),
        ),
    ),
    "AssociativeEmbeddingLoss": tags(embedded, outputs("pull", "push")),
    "CornerNet.AELoss": tags(
        cornered,
        (
            Line("pull_weight = push_weight = 1"),
            Line("both 0.1", {"pull_weight": 0.1, "push_weight": 0.1}),
            Line("push_weight = 0", {"push_weight": 0.0}),
        ),
    ),
    "CornerNet.ae_loss": tags(tagged, outputs("pull", "push")),
    "CornerNet.neg_loss": peak(),
    "CornerNet.regr_loss": Plot(
        caption="The offset of one corner along one axis.",
        axis="pred - target, cells",
        span=(-3, 3),
        inputs=shifted,
        lines=(
            Line("1 object"),
            Line("1 of 2 objects", inputs=partial(shifted, objects=2)),
            Line("1 of 4 objects", inputs=partial(shifted, objects=4)),
        ),
    ),
    "mmdet2.GaussianFocalLoss": GAUSSIAN,
}
