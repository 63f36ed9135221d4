"""Vectors: the like together, the unlike apart. InfoNCELoss is the one to try first for pairs."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, outputs, settings

TITLE = "Embeddings"


def unit(cosine: Tensor) -> Tensor:
    """A vector of length 1 with that cosine to the first axis, turned into the last of five."""
    return torch.stack([cosine, *[0 * cosine] * 3, (1 - cosine.square()).sqrt()])


def paired(x: Tensor) -> Inputs:
    """Four pairs at right angles to each other, equal but for one, whose cosine is x."""
    keys = torch.eye(4, 5, dtype=torch.float64)
    return {"pred": torch.cat([unit(x).view(1, 5), keys[1:]]), "target": keys}


def labelled(x: Tensor) -> Inputs:
    """Two classes of two vectors each; the cosine of one of them to the other of its class is x."""
    first, _, third, _, _ = torch.eye(5, dtype=torch.float64)
    return {
        "pred": torch.stack([unit(x), first, third, third]),
        "target": torch.tensor([0, 0, 1, 1]),
    }


def on_a_line(x: Tensor) -> Inputs:
    """An anchor at 0, a positive at -1 and a negative at x."""
    return {
        "pred": torch.stack([0 * x, 0 * x - 1, x]).view(3, 1),
        "target": torch.tensor([0, 0, 1]),
    }


def scored(x: Tensor, positives: int = 1) -> Inputs:
    """Five scores, of which the first is x and the others are 0."""
    first = torch.eye(5, dtype=torch.float64)[:1]
    return {"pred": x * first, "target": (torch.arange(5) < positives).long().view(1, 5)}


def alike(x: Tensor, truth: float = 1.0) -> Inputs:
    """One similarity, and what it should be."""
    return {"pred": one(x), "target": numbers([truth])}


def at_angle(x: Tensor) -> Inputs:
    """The cosine of the right class's centre, and those of two others."""
    return {
        "pred": torch.stack([x.cos(), 0 * x + 0.2, 0 * x - 0.3]).view(1, 3),
        "target": torch.tensor([0]),
    }


def coordinate(x: Tensor) -> Inputs:
    """Two views of four vectors that are the same, but for one coordinate x."""
    view = numbers([1, 0.5], [-1, 0.2], [0.3, -1], [-0.4, 0.6])
    moved = view.index_put((torch.tensor(0), torch.tensor(0)), x)
    return {"pred": moved, "target": view}


PAIRS = Plot(
    caption="Four pairs at right angles to each other, equal but for one whose cosine varies.",
    axis="cosine of one pair",
    span=(-0.99, 0.99),
    inputs=paired,
    params={"reduction": "sum"},
)
CLASSES = replace(
    PAIRS,
    caption="Two classes of two vectors each; the cosine of one pair varies.",
    axis="cosine of a vector to the other of its class",
    inputs=labelled,
)
ANGLE = Plot(
    caption="The angle to the centre of the right class; the cosines to two others are 0.2 and -0.3.",
    axis="angle to the right class, radians",
    span=(0.02, 3.12),
    inputs=at_angle,
)
SIMILARITY = Plot(
    caption="One similarity, of a positive or a negative pair.",
    axis="similarity",
    span=(-0.5, 1.5),
    inputs=alike,
    lines=(
        Line("positive"),
        Line("positive, pos_margin = 0.2", {"pos_margin": 0.2}),
        Line("negative, neg_margin = 0.3", {"neg_margin": 0.3}, partial(alike, truth=0.0)),
    ),
)
COORDINATE = Plot(
    caption="Two views of four vectors, equal but for one coordinate, which is 1 in the other.",
    axis="one coordinate of one view",
    span=(-2, 4),
    inputs=coordinate,
)

PLOTS = {
    "InfoNCELoss": replace(PAIRS, lines=settings("temperature", 0.07, 0.2, 0.5)),
    "NTXentLoss": replace(PAIRS, lines=settings("temperature", 0.5, 0.2, 0.07)),
    "SigLIPLoss": replace(
        PAIRS,
        lines=(
            Line("logit_scale = 10, logit_bias = -10"),
            Line("20, -10", {"logit_scale": 20.0}),
            Line("10, -5", {"logit_bias": -5.0}),
        ),
    ),
    "SupConLoss": replace(
        CLASSES,
        lines=tuple(
            Line(f"temperature = {t:g}", {"temperature": t, "base_temperature": t})
            for t in (0.07, 0.2, 0.5)
        ),
    ),
    "CircleLoss": replace(
        CLASSES,
        caption=f"{CLASSES.caption} The factors α_n and α_p have no gradient.",
        lines=(
            Line("m = 0.25, gamma = 256"),
            Line("m = 0.4, gamma = 80", {"m": 0.4, "gamma": 80.0}),
            Line("m = 0.25, gamma = 80", {"gamma": 80.0}),
        ),
    ),
    "TripletLoss": Plot(
        caption="An anchor at 0, its positive at -1, a negative that moves away: each is an anchor.",
        axis="distance of the negative",
        span=(0.05, 4),
        inputs=on_a_line,
        lines=settings("margin", 0.3, 1.0),
    ),
    "MultiPosCrossEntropyLoss": Plot(
        caption="One positive score; the four others, positive or negative, are 0.",
        axis="score of a positive",
        span=(-6, 6),
        inputs=scored,
        lines=(
            Line("1 positive of 5"),
            Line("2 positives", inputs=partial(scored, positives=2)),
            Line("4 positives", inputs=partial(scored, positives=4)),
        ),
    ),
    "ArcFaceLoss": replace(
        ANGLE,
        caption=f"{ANGLE.caption} The step is where the angle and m make π.",
        lines=settings("m", 0.5, 0.25, 0.0),
    ),
    "CosFaceLoss": replace(ANGLE, lines=settings("m", 0.35, 0.2, 0.0)),
    "L2Loss": SIMILARITY,
    "MarginL2Loss": SIMILARITY,
    "BarlowTwinsLoss": replace(COORDINATE, lines=settings("lambd", 0.0051, 0.5, 2.0)),
    "VICRegLoss": replace(COORDINATE, lines=outputs("invariance", "variance", "covariance")),
}
