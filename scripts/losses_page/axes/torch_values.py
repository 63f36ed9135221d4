"""torch.nn's losses of numbers and of classes, with torch's own rules, under the scope `torch.`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, settings

TITLE = "PyTorch: numbers and classes"

CLASSES = 10


def apart(x: Tensor) -> Inputs:
    """One number that is x too large."""
    return {"pred": one(x), "target": numbers([0])}


def varying(x: Tensor, variance: float = 1.0) -> Inputs:
    """The same with a variance."""
    return apart(x) | {"var": numbers([variance])}


def counted(x: Tensor, count: float = 3.0) -> Inputs:
    """The log of a rate, and a count."""
    return {"pred": one(x), "target": numbers([count])}


def true(x: Tensor, truth: float = 1.0) -> Inputs:
    """One score, and what it should be."""
    return {"pred": one(x), "target": numbers([truth])}


def right_class(x: Tensor) -> Inputs:
    """Scores that are x for the right class and 0 for all others."""
    rest = x.new_zeros(1, CLASSES - 1)
    return {"pred": torch.cat([one(x), rest], 1), "target": torch.tensor([0])}


def log_softmax(x: Tensor) -> Inputs:
    """Log-probabilities, of which the right class's is x."""
    return right_class(x)


def distributed(x: Tensor, share: float = 0.5) -> Inputs:
    """The log-probability x of an event that has that probability."""
    return {"pred": one(x), "target": numbers([share])}


def error(*lines: Line, inputs: Any = apart) -> Plot:
    """One number and what it should be."""
    return Plot(
        caption="One number against what it should be.",
        axis="pred - target",
        span=(-3, 3),
        inputs=inputs,
        lines=lines,
    )


def score(*lines: Line, axis: str = "logit", **more: Any) -> Plot:
    """One score of one class."""
    return Plot(
        caption="One score, of what is there or is not.",
        axis=axis,
        inputs=true,
        lines=lines,
        **{"span": (-6, 6)} | more,
    )


def of_classes(*lines: Line) -> Plot:
    """Scores of ten classes."""
    return Plot(
        caption="The score of the right class, with all nine others at 0.",
        axis="logit of the right class",
        span=(-6, 6),
        inputs=right_class,
        lines=lines,
    )


SCALED = settings("loss_weight", 1.0, 0.5)
TRUTHS = (Line("target 1"), Line("target 0", inputs=partial(true, truth=0.0)))
TWICE = {"weight": [2.0] + [1.0] * (CLASSES - 1)}

PLOTS = {
    "torch.CrossEntropyLoss": of_classes(*settings("label_smoothing", 0.0, 0.1, 0.3)),
    "torch.NLLLoss": Plot(
        caption="The log-probability of the right class.",
        axis="log-probability of the right class",
        span=(-6, 0),
        inputs=log_softmax,
        lines=(Line("weight = None"), Line("weight = 2 of the class", TWICE)),
        params={"reduction": "sum"},
    ),
    "torch.BCEWithLogitsLoss": score(
        *TRUTHS, Line("target 1, pos_weight = 3", {"pos_weight": [3.0]})
    ),
    "torch.BCELoss": score(*TRUTHS, axis="probability", span=(0.005, 0.995), steepest=15),
    "torch.MultiLabelSoftMarginLoss": score(*TRUTHS),
    "torch.SoftMarginLoss": score(
        Line("target 1"), Line("target -1", inputs=partial(true, truth=-1.0))
    ),
    "torch.MSELoss": error(*SCALED),
    "torch.L1Loss": error(*SCALED),
    "torch.SmoothL1Loss": error(*settings("beta", 1.0, 0.11, 2.0)),
    "torch.HuberLoss": error(*settings("delta", 1.0, 0.5, 2.0)),
    "torch.GaussianNLLLoss": error(
        *(Line(f"var = {v:g}", inputs=partial(varying, variance=v)) for v in (1.0, 0.25, 4.0)),
        inputs=varying,
    ),
    "torch.PoissonNLLLoss": Plot(
        caption="The logarithm of an expected count.",
        axis="log of the rate",
        span=(-3, 3),
        inputs=counted,
        lines=tuple(
            Line(f"count {count:g}", inputs=partial(counted, count=count))
            for count in (3.0, 1.0, 8.0)
        ),
    ),
    "torch.KLDivLoss": Plot(
        caption="The log-probability of one event against its probability; one term of the sum.",
        axis="log-probability",
        span=(-4, 0),
        inputs=distributed,
        lines=tuple(
            Line(f"target {share:g}", inputs=partial(distributed, share=share))
            for share in (0.5, 0.1, 0.9)
        ),
    ),
}
