"""Numbers against numbers: box offsets, depths, maps. SmoothL1Loss is the one to try first."""

from typing import Any

from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, settings

TITLE = "Regression"

#: Errors of the other numbers of a small batch.
OTHERS = numbers([0.02], [-0.05], [0.1], [0.15], [-0.3], [0.8])


def apart(x: Tensor) -> Inputs:
    """One number that is x too large."""
    return {"pred": one(x), "target": numbers([0])}


def among_others(x: Tensor) -> Inputs:
    """One number that is x too large, in a batch of seven."""
    pred = (OTHERS + 0 * x).index_put((OTHERS.new_zeros(1).long(),), x)
    return {"pred": pred, "target": 0 * OTHERS, "weight": 0 * OTHERS + 1}


def error(*lines: Line, **more: Any) -> Plot:
    """One number and what it should be."""
    return Plot(
        caption="One number against what it should be.",
        axis="pred - target",
        span=(-3, 3),
        inputs=apart,
        lines=lines,
        **more,
    )


SCALED = settings("loss_weight", 1.0, 0.5)
L1 = error(*SCALED)
SMOOTH_L1 = error(*settings("beta", 1.0, 0.11, 2.0))

PLOTS = {
    "SmoothL1Loss": SMOOTH_L1,
    "L1Loss": L1,
    "MSELoss": error(*SCALED),
    "BalancedL1Loss": error(
        Line("alpha = 0.5, gamma = 1.5"),
        Line("alpha = 0.2", {"alpha": 0.2}),
        Line("gamma = 1", {"gamma": 1.0}),
    ),
    "GHMR": Plot(
        caption="One number of a batch of six; the errors of the others are from 0.05 to 0.8.",
        axis="pred - target of the one",
        span=(-1.5, 1.5),
        inputs=among_others,
        lines=settings("mu", 0.02, 0.2, 1.0),
    ),
    "mmdet2.SmoothL1Loss": SMOOTH_L1,
    "mmdet2.L1Loss": L1,
}
