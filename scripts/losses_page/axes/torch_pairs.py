"""torch.nn's losses of margins, pairs, sequences and large heads, under the scope `torch.`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, one, settings

TITLE = "PyTorch: margins, pairs, sequences"

CLASSES = 10


def right_class(x: Tensor) -> Inputs:
    """Scores that are x for the right class and 0 for two others."""
    return {"pred": torch.cat([one(x), x.new_zeros(1, 2)], 1), "target": torch.tensor([0])}


def two_labels(x: Tensor) -> Inputs:
    """Scores of four classes, of which the first two are right and the first has x."""
    pred = torch.cat([one(x), numbers([1, 0, 0])], 1)
    return {"pred": pred, "target": torch.tensor([[0, 1, -1, -1]])}


def ranked(x: Tensor, y: float = 1.0) -> Inputs:
    """Two scores, x and 0, of which the first should be larger, or smaller."""
    return {"pred": one(x), "target": numbers([0]), "y": numbers([y])}


def distant(x: Tensor, y: float = 1.0) -> Inputs:
    """One distance of a pair that is alike, or not."""
    return {"pred": one(x), "target": numbers([y])}


def turned(x: Tensor, y: float = 1.0) -> Inputs:
    """Two vectors whose cosine is x."""
    pred = torch.stack([x, (1 - x.square()).sqrt()]).view(1, 2)
    return {"pred": pred, "target": numbers([1, 0]), "y": numbers(y)}


def triplet(x: Tensor) -> Inputs:
    """An anchor, its positive at a distance of 1, and a negative at x on the other side."""
    positive, negative = numbers([0, 1]), torch.stack([0 * x, -x]).view(1, 2)
    return {"pred": numbers([0, 0]), "target": positive, "negative": negative}


def triplet_around(x: Tensor) -> Inputs:
    """The same on a circle, x being an angle; the positive is at half a radian."""
    positive, negative = numbers([0.5]), x.view(1, 1)
    made = {"pred": numbers([0]), "target": positive, "negative": negative}
    return {name: torch.cat([angle.cos(), angle.sin()], 1) for name, angle in made.items()}


def hidden(x: Tensor) -> Inputs:
    """A hidden state that a layer turns into the logit x of the right class, and 0 of the others."""
    weight = torch.eye(CLASSES, 1, dtype=torch.float64)
    return {"pred": one(x), "target": torch.tensor([0]), "linear_weight": weight}


def frequent(x: Tensor, target: int = 0) -> Inputs:
    """A head of two frequent classes and one cluster of two rare ones; x is the logit of class 0."""
    tail = [torch.eye(1, dtype=torch.float64), numbers([0.5], [-0.5])]
    return {
        "pred": one(x),
        "target": torch.tensor([target]),
        "head_weight": numbers([1], [0], [0]),
        "tail": [tail],
    }


def spoken(x: Tensor) -> Inputs:
    """Four steps of blank, a and b; a is said, and x is its logit at the second step."""
    moved = torch.zeros(4, 1, 3, dtype=torch.float64)
    moved[1, 0, 1] = 1
    scores = numbers([[1, 0, 0]], [[0, 0, 0]], [[0, 0, 1]], [[1, 0, 0]]) + x * moved
    return {
        "pred": scores.log_softmax(-1),
        "target": torch.tensor([[1, 2]]),
        "input_lengths": torch.tensor([4]),
        "target_lengths": torch.tensor([2]),
    }


def plain(
    caption: str, axis: str, span: tuple[float, float], inputs: Any, *lines: Line, **params: Any
) -> Plot:
    """A plot without limits."""
    return Plot(caption=caption, axis=axis, span=span, inputs=inputs, lines=lines, params=params)


ALIKE = (Line("y = 1"), Line("y = -1", inputs=partial(distant, y=-1.0)))
NEGATIVE = ("distance of the negative", (0.05, 4.0), triplet)
DISTANCES = ("euclidean", "squared_euclidean", "cosine")

PLOTS = {
    "torch.MultiMarginLoss": plain(
        "The score of the right class; the two others have 0.",
        "score of the right class",
        (-2, 3),
        right_class,
        Line("p = 1, margin = 1"),
        Line("p = 2", {"p": 2}),
        Line("margin = 2", {"margin": 2.0}),
    ),
    "torch.MultiLabelMarginLoss": plain(
        "Four classes, two of them right: one right one varies, the other has 1, the wrong ones 0.",
        "score of one right class",
        (-2, 3),
        two_labels,
        *settings("loss_weight", 1.0, 0.5),
    ),
    "torch.HingeEmbeddingLoss": plain(
        "The distance of a pair that is alike (y = 1) or not.",
        "distance",
        (0, 3),
        distant,
        *ALIKE,
        Line("y = -1, margin = 2", {"margin": 2.0}, ALIKE[1].inputs),
    ),
    "torch.MarginRankingLoss": plain(
        "Two scores, of which the first should be larger (y = 1) or smaller.",
        "pred - target",
        (-3, 3),
        ranked,
        Line("y = 1"),
        Line("y = 1, margin = 1", {"margin": 1.0}),
        Line("y = -1", inputs=partial(ranked, y=-1.0)),
    ),
    "torch.CosineEmbeddingLoss": plain(
        "Two vectors that are alike (y = 1) or not.",
        "cosine of the pair",
        (-0.99, 0.99),
        turned,
        Line("y = 1"),
        Line("y = -1", inputs=partial(turned, y=-1.0)),
        Line("y = -1, margin = 0.5", {"margin": 0.5}, partial(turned, y=-1.0)),
    ),
    "torch.TripletMarginLoss": plain(
        "The positive is at a distance of 1 from the anchor; the negative moves away.",
        *NEGATIVE,
        *settings("margin", 1.0, 2.0, 0.5),
    ),
    "torch.TripletMarginWithDistanceLoss": plain(
        "Three directions: the positive is half a radian from the anchor; the negative turns away.",
        "angle of the negative, radians",
        (0.02, 3.12),
        triplet_around,
        *(Line(f'"{name}"', {"distance_function": name}) for name in DISTANCES),
    ),
    "torch.CTCLoss": plain(
        "Four steps of the classes blank, a and b, in which a b is said.",
        "logit of a at the second step",
        (-6, 6),
        spoken,
        *settings("reduction", "mean", "sum"),
    ),
    "torch.LinearCrossEntropyLoss": plain(
        "Ten classes: the logit of the right one, with all others at 0.",
        "logit of the right class",
        (-6, 6),
        hidden,
        *settings("label_smoothing", 0.0, 0.1, 0.3),
        in_features=1,
        num_classes=CLASSES,
    ),
    "torch.AdaptiveLogSoftmaxWithLoss": plain(
        "Two frequent classes and a cluster of two rare ones; the logit of class 0 varies.",
        "logit of class 0",
        (-6, 6),
        frequent,
        Line("class 0 is right"),
        Line("class 1", inputs=partial(frequent, target=1)),
        Line("class 2, a rare one", inputs=partial(frequent, target=2)),
        in_features=1,
        n_classes=4,
        cutoffs=[2],
    ),
}
