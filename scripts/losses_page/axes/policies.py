"""Policies that learn from advantages. PPOClipLoss and GRPOLoss are the ones to try first."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, settings

TITLE = "Reinforcement learning"

#: Log-probability of the token when it was drawn.
OLD = -2.0


def taken(x: Tensor, advantage: float = 1.0) -> Inputs:
    """One token with the log-probability x."""
    return {"pred": one(x), "target": numbers([advantage])}


def moved(x: Tensor, advantage: float = 1.0) -> Inputs:
    """One token whose log-probability is x more than when it was drawn."""
    return {"pred": one(x + OLD), "target": numbers([advantage]), "old_logp": numbers([OLD])}


def referred(x: Tensor, advantage: float = 1.0) -> Inputs:
    """The same, where the reference is the policy that drew it."""
    return moved(x, advantage) | {"ref_logp": numbers([OLD])}


def valued(x: Tensor) -> Inputs:
    """A value x, that was 0 and should be 1."""
    return {"pred": one(x), "target": numbers([1]), "old_values": numbers([0])}


def undecided(x: Tensor) -> Inputs:
    """Four tokens, of which one has the logit x and the others 0."""
    return {"pred": torch.cat([one(x), x.new_zeros(1, 3)], 1)}


RATIO = Plot(
    caption="One token, whose advantage is 1 or -1.",
    axis="log π - log π_old",
    span=(-1.5, 1.5),
    inputs=moved,
)
GOOD, BAD = Line("A = 1"), Line("A = -1", inputs=partial(moved, advantage=-1.0))

PLOTS = {
    "PPOClipLoss": replace(
        RATIO,
        lines=(
            GOOD,
            BAD,
            Line("A = -1, dual_clip = 2", {"dual_clip": 2.0}, BAD.inputs),
        ),
    ),
    "GRPOLoss": replace(
        RATIO,
        inputs=referred,
        caption=f"{RATIO.caption} The reference is π_old.",
        lines=(
            GOOD,
            Line("A = -1", inputs=partial(referred, advantage=-1.0)),
            Line("A = 1, beta = 0.4", {"beta": 0.4}),
        ),
    ),
    "CISPOLoss": replace(
        RATIO,
        caption="One token with log π_old = -2. The weight has no gradient.",
        lines=(GOOD, BAD, Line("A = 1, clip_high = 2", {"clip_high": 2.0})),
        params={"clip_high": 0.28},
    ),
    "ImportanceSamplingLoss": replace(RATIO, lines=(GOOD, BAD)),
    "PolicyGradientLoss": Plot(
        caption=RATIO.caption,
        axis="log π",
        span=(-4, 0),
        inputs=taken,
        lines=(Line("A = 1"), Line("A = -1", inputs=partial(taken, advantage=-1.0))),
    ),
    "ValueClipLoss": Plot(
        caption="A value that was 0 when the sample was drawn; the return is 1.",
        axis="value",
        span=(-1, 3),
        inputs=valued,
        lines=settings("clip", 0.2, 0.5, 100.0),
    ),
    "EntropyLoss": Plot(
        caption="Four tokens: the logit of one, with the others at 0.",
        axis="logit of one token",
        span=(-8, 8),
        inputs=undecided,
        lines=settings("loss_weight", 1.0, 0.5),
    ),
}
