"""One class of several. CrossEntropyLoss is the one to try first; the others are for rare classes."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, settings

TITLE = "Classification"

CLASSES = 10


def right_class(x: Tensor, classes: int = CLASSES) -> Inputs:
    """Scores that are x for the right class and 0 for all others."""
    rest = x.new_zeros(1, classes - 1)
    return {"pred": torch.cat([one(x), rest], 1), "target": torch.tensor([0])}


def rare_class(x: Tensor) -> Inputs:
    """An object of class 0, seen 1,000 times, and the score x of class 1, seen 10 times."""
    zero = 0 * x
    return {
        "pred": torch.stack([zero, x, zero, zero]).view(1, 4),
        "target": torch.tensor([0]),
        "state": {"cum_samples": torch.tensor([999.0, 10.0, 0.0])},
    }


def pushed(x: Tensor, ratio: float, *, positive: bool) -> Inputs:
    """A class whose gradients were in that ratio, positives to negatives; background is certain."""
    surely = 40 * (1 if positive else -1)
    return {
        "pred": torch.stack([x, 0 * x - surely]).view(1, 2),
        "target": torch.tensor([0 if positive else 1]),
        "state": {
            "pos_grad": torch.tensor([ratio]),
            "neg_grad": torch.tensor([1.0]),
            "pos_neg": torch.tensor([ratio]),
        },
    }


def crowd(x: Tensor) -> Inputs:
    """A positive with the score x, among twenty easy negatives and a hard one."""
    others = torch.linspace(-6, -3, 20, dtype=torch.float64)
    pred = torch.cat([x.view(1), others, numbers(1.0)]).view(-1, 1)
    target = torch.zeros_like(pred)
    target[0] = 1
    return {"pred": pred, "target": target, "weight": torch.ones_like(pred)}


def ranks(x: Tensor) -> Inputs:
    """A right class with the score x, and two others with 0 and 1."""
    return {"pred": torch.stack([x, 0 * x, 0 * x + 1]).view(1, 3), "target": torch.tensor([0])}


CAPTION = "The score of the right class, with all others at 0."

CROSS_ENTROPY = Plot(
    caption=CAPTION,
    axis="logit of the right class",
    span=(-6, 6),
    inputs=right_class,
    lines=(
        Line("softmax of 10 classes"),
        Line("class_weight = 2", {"class_weight": [2.0] + [1.0] * (CLASSES - 1)}),
        Line("use_sigmoid, 1 class", {"use_sigmoid": True}, partial(right_class, classes=1)),
    ),
)

PLOTS = {
    "CrossEntropyLoss": CROSS_ENTROPY,
    "CrossEntropyCustomLoss": replace(CROSS_ENTROPY, params={"num_classes": CLASSES}),
    "SeesawLoss": Plot(
        caption="An object of a class seen 1,000 times, and the score of a wrong class seen 10 times. "
        "The value is steeper than the gradient says: none goes through the compensation.",
        axis="logit of the rare, wrong class",
        span=(-6, 6),
        inputs=rare_class,
        lines=(
            Line("p = 0.8, q = 2"),
            Line("p = 0, no mitigation", {"p": 0.0}),
            Line("q = 0, no compensation", {"q": 0.0}),
        ),
        params={"num_classes": 2, "return_dict": False},
    ),
    "EQLV2Loss": Plot(
        caption="One class, after calls whose gradients were in the ratio r, positives to negatives.",
        axis="logit of the class",
        span=(-6, 6),
        inputs=partial(pushed, ratio=0.6, positive=False),
        lines=(
            Line("a negative, r = 0.6", inputs=partial(pushed, ratio=0.6, positive=False)),
            Line("a negative, r = 1", inputs=partial(pushed, ratio=1.0, positive=False)),
            Line("a positive, r = 0.6", inputs=partial(pushed, ratio=0.6, positive=True)),
        ),
        params={"num_classes": 1},
        top=8,
    ),
    "GHMC": Plot(
        caption="A positive among twenty easy negatives and a hard one: each jump is a new bin.",
        axis="logit of the positive",
        span=(-6, 6),
        inputs=crowd,
        lines=settings("bins", 10, 5, 30),
    ),
    "Accuracy": Plot(
        caption="The score of the right class, the two others being 0 and 1. There is no gradient.",
        axis="score of the right class",
        span=(-1, 2),
        inputs=ranks,
        lines=settings("topk", 1, 2),
    ),
}
