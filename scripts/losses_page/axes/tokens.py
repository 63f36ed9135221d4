"""The next token of a text. LabelSmoothingLoss with a smoothing of 0 is plain cross entropy."""

from dataclasses import replace

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, one, settings

TITLE = "Language models"

VOCABULARY = 10


def next_token(x: Tensor) -> Inputs:
    """Logits of which the right token's is x, and all others are 0."""
    return {
        "pred": torch.cat([one(x), x.new_zeros(1, VOCABULARY - 1)], 1),
        "target": torch.tensor([0]),
    }


def all_tokens(x: Tensor) -> Inputs:
    """Logits of which one is x, without a target."""
    return {"pred": next_token(x)["pred"]}


def hidden(x: Tensor) -> Inputs:
    """A hidden state that a head turns into these logits."""
    head = torch.eye(VOCABULARY, 1, dtype=torch.float64)
    return {"pred": one(x), "target": torch.tensor([0]), "head": head}


RIGHT = Plot(
    caption="Ten tokens: the logit of the right one, with all others at 0.",
    axis="logit of the right token",
    span=(-6, 12),
    inputs=next_token,
)

PLOTS = {
    "LabelSmoothingLoss": replace(RIGHT, lines=settings("label_smoothing", 0.1, 0.0, 0.3)),
    "LinearCrossEntropyLoss": replace(
        RIGHT,
        inputs=hidden,
        lines=(
            Line("default"),
            Line("softcap = 5", {"softcap": 5.0}),
            Line("z_loss = 0.01", {"z_loss": 0.01}),
        ),
    ),
    "ZLoss": Plot(
        caption="Ten tokens: the logit of one, with all others at 0.",
        axis="logit of one token",
        span=(-6, 12),
        inputs=all_tokens,
        lines=settings("coefficient", 1e-4, 2e-4),
    ),
}
