"""Masks: regions of pixels. DiceLoss is the one to try first, beside a cross entropy of the pixels."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, settings

TITLE = "Masks"

#: A region of 8 of 16 pixels.
MASK = torch.arange(16).view(1, 4, 4) % 4 // 2


def inside(x: Tensor) -> Inputs:
    """A mask that has the logit x in the region, and -x out of it."""
    return {"pred": x * (2.0 * MASK - 1), "target": MASK}


def everywhere(x: Tensor) -> Inputs:
    """A mask with the logit x at every pixel."""
    return {"pred": (x + 0.0 * MASK), "target": MASK}


def of_two(x: Tensor) -> Inputs:
    """The same as the logits of two classes; a third is nowhere and has the logit -1."""
    region = x * (MASK - 0.5)
    return {"pred": torch.stack([-region, region, 0 * region - 1], 1), "target": MASK}


def at_pixel(x: Tensor, distance: float) -> Inputs:
    """One pixel with the logit x, at that distance from the boundary."""
    return {"pred": x.view(1, 1), "target": numbers([distance])}


def drawn(caption: str, inputs: Any, lines: tuple[Line, ...], **params: Any) -> Plot:
    """A mask of 4 × 4 pixels."""
    return Plot(
        caption=caption,
        axis="logit",
        span=(-6, 6),
        inputs=inputs,
        lines=lines,
        params=params,
    )


SURE = "A mask of 4 × 4 pixels, half of them a region: x is the logit in it, -x that out of it."
SAME = (
    "A mask of 4 × 4 pixels, half of them a region, with one logit for all: what missing it costs."
)
PIXEL = partial(at_pixel, distance=4.0)

PLOTS = {
    "DiceLoss": drawn(SURE, inside, settings("naive_dice", False, True)),
    "SoftDiceLoss": drawn(SURE, inside, settings("squared", True, False), mode="binary"),
    "TverskyLoss": drawn(
        SAME,
        everywhere,
        (
            Line("alpha = 0.3, beta = 0.7"),
            Line("0.5, 0.5", {"alpha": 0.5, "beta": 0.5}),
            Line("0.7, 0.3", {"alpha": 0.7, "beta": 0.3}),
        ),
        mode="binary",
    ),
    "FocalTverskyLoss": drawn(SURE, inside, settings("gamma", 4 / 3, 1.0, 3.0), mode="binary"),
    "LovaszHingeLoss": drawn(
        SAME[: SAME.index(":")] + ", or x in the region and -x out of it.",
        inside,
        (Line("x in, -x out"), Line("x everywhere", inputs=everywhere)),
    ),
    "LovaszSoftmaxLoss": drawn(
        "A mask of 4 × 4 pixels of two classes, half and half; a third class is nowhere. "
        "x is by how much the right one's logit exceeds the wrong one's.",
        of_two,
        settings("classes", "present", "all"),
    ),
    "BoundaryLoss": drawn(
        "One pixel, at a distance from the region's boundary that is below 0 inside of it.",
        PIXEL,
        tuple(
            Line(f"distance {distance:g}", inputs=partial(at_pixel, distance=distance))
            for distance in (4.0, 1.0, -3.0)
        ),
        mode="binary",
    ),
}
