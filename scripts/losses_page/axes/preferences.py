"""Answers that people preferred, against those that they did not. DPOLoss is the one to try first."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, settings

TITLE = "Preferences"


def preferred(x: Tensor) -> Inputs:
    """Two answers, the chosen one by x nats more likely than the reference has it, against the other."""
    return {
        "pred": {"chosen": x.view(1) - 40, "rejected": numbers(-50)},
        "ref_logp": {"chosen": numbers(-40), "rejected": numbers(-50)},
    }


def judged(x: Tensor, *, desirable: bool = True) -> Inputs:
    """One answer, by x nats more likely than the reference has it."""
    return {
        "pred": x.view(1) - 40,
        "target": torch.tensor([desirable]),
        "ref_logp": numbers(-40),
        "kl": numbers(5),
    }


MARGIN = Plot(
    caption="By how much the policy prefers the chosen answer more than the reference does.",
    axis="margin h, nats",
    span=(-40, 40),
    inputs=preferred,
)

PLOTS = {
    "DPOLoss": replace(
        MARGIN,
        lines=(
            Line("beta = 0.1"),
            Line("beta = 0.3", {"beta": 0.3}),
            Line("label_smoothing = 0.2", {"label_smoothing": 0.2}),
        ),
    ),
    "IPOLoss": replace(MARGIN, lines=settings("beta", 0.1, 0.05, 0.3)),
    "KTOLoss": Plot(
        caption="One answer, desirable or not; the reference point kl is 5 nats.",
        axis="log π - log π_ref of the answer, nats",
        span=(-40, 50),
        inputs=judged,
        lines=(
            Line("desirable"),
            Line("undesirable", inputs=partial(judged, desirable=False)),
            Line("desirable, beta = 0.3", {"beta": 0.3}),
        ),
    ),
}
