"""Boxes as x1, y1, x2, y2, compared by how they overlap. GIoULoss is the one to try first."""

from typing import Any

from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, settings

TITLE = "Boxes"

BOX = numbers([0, 0, 10, 10])
FLAT_BOX = numbers([0, 2, 10, 8])
ALONG_X = numbers([1, 0, 1, 0])


def sliding(x: Tensor) -> Inputs:
    """A box of 10 × 10, moved by x."""
    return {"pred": BOX + x * ALONG_X, "target": BOX}


def flat(x: Tensor) -> Inputs:
    """A box of 10 × 6 in the middle of one of 10 × 10, moved by x."""
    return {"pred": FLAT_BOX + x * ALONG_X, "target": BOX}


FORMS = (Line("10 × 10 over 10 × 10"), Line("10 × 6 over 10 × 10", inputs=flat))


def slide(lines: tuple[Line, ...] = FORMS, **more: Any) -> Plot:
    """A box that slides over another one."""
    return Plot(
        caption="A box slides along x over another: apart, in place at 0, apart again.",
        axis="shift of the box, pixels",
        span=(-20, 20),
        inputs=sliding,
        lines=lines,
        **more,
    )


PLOTS = {
    "GIoULoss": slide(),
    "IoULoss": slide(settings("mode", "log", "square", "linear"), top=3.5, steepest=1),
    "DIoULoss": slide(),
    "CIoULoss": slide(),
    "EIoULoss": slide(settings("smooth_point", 0.1, 0.5, 1.0)),
    "SIoULoss": slide(settings("neg_gamma", False, True)),
    "BoundedIoULoss": slide(settings("beta", 0.2, 0.6)),
}
