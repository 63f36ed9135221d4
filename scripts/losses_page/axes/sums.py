"""Losses made of losses."""

from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one

TITLE = "Sums"


def apart(x: Tensor) -> Inputs:
    """One number that is x too large."""
    return {"pred": one(x), "target": numbers([0])}


PLOTS = {
    "Sum": Plot(
        caption="One number that two parts read: far = L1Loss, near = MSELoss with a weight of 0.2.",
        axis="pred - target",
        span=(-3, 3),
        inputs=apart,
        lines=(Line("the sum"), Line("far", output="far"), Line("near", output="near")),
        params={
            "parts": {"far": {"type": "L1Loss"}, "near": {"type": "MSELoss"}},
            "weights": {"near": 0.2},
        },
    ),
}
