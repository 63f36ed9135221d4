"""The picture: how both runs went, and what the detector sees on held-out canvases.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart;
nothing is told by colour alone. A Figure made without pyplot draws with Agg and
needs no screen.
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from examples.digits.agreement import bound, difference
from examples.digits.canvases import CANVAS, Canvases
from examples.digits.evaluate import SURE, Detections, matches
from examples.digits.training import WATCHED_EVERY, Run

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

#: Steps that the curves are averaged over; a batch of 16 canvases is noisy.
SMOOTHED = 10

STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.dpi": 120,
    "font.size": 10,
    "legend.frameon": False,
}


def draw(path: Path, remote: Run, local: Run, found: list[Detections], canvases: Canvases) -> None:
    """Write the picture as PNG.

    Parameters:
        path: where to.
        remote: the run with losses from the server.
        local: the run with local losses.
        found: detections of the remote run's model, one item a canvas.
        canvases: the canvases they were found on; the first ten are drawn.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 10.5), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.55))
        left, right = top.subplots(1, 2)
        _losses(left, remote, local)
        _weights(right, remote, local)
        _canvases(bottom, found, canvases)
        figure.savefig(path)


def _losses(axes: Axes, remote: Run, local: Run) -> None:
    for column, colour, what in ((0, BLUE, "FocalLoss"), (1, VERMILION, "SmoothL1Loss")):
        step, there = _smooth(remote.losses[:, column])
        axes.plot(step, there, color=colour, linewidth=4, alpha=0.4, label=f"{what}, remote")
        step, here = _smooth(local.losses[:, column])
        axes.plot(step, here, color=colour, linewidth=1.3, linestyle="--", label=f"{what}, local")
    axes.set_yscale("log")
    axes.set(
        title="The same training with remote and with local losses",
        xlabel="step",
        ylabel=f"loss, mean of {SMOOTHED} steps",
    )
    axes.legend(ncols=2)


def _weights(axes: Axes, remote: Run, local: Run) -> None:
    apart = difference(remote.weights, local.weights)
    steps = [WATCHED_EVERY * (look + 1) for look in range(len(apart))]
    allowed = [bound(weights, step) for weights, step in zip(local.weights, steps, strict=True)]
    axes.plot(
        steps, allowed, color=VERMILION, linestyle="--", label="bound: √step ulps of the largest"
    )
    axes.plot(steps, apart, color=BLUE, linewidth=2, label="largest difference of a weight")
    axes.set_yscale("log")
    axes.set(
        title="How far apart the weights of the two runs are",
        xlabel="step",
        ylabel="|remote - local|",
        ylim=(None, allowed[-1] * 10),
    )
    axes.legend(loc="upper left", ncols=2)


def _canvases(figure: SubFigure, found: list[Detections], canvases: Canvases) -> None:
    figure.suptitle(
        f"Held-out canvases: detections with a score of {SURE} or more, as digit and score",
        fontsize=11,
        fontweight="bold",
    )
    for index, axes in enumerate(figure.subplots(2, 5).flat):
        axes.imshow(
            canvases.images[index, 0],
            cmap="gray_r",
            vmin=-0.1,
            vmax=1.6,
            extent=(0, CANVAS, CANVAS, 0),
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(GREY)
        _detections(
            axes, found[index].surer_than(SURE), canvases.boxes[index], canvases.labels[index]
        )
    meanings = (("right", BLUE, "-"), ("wrong", VERMILION, "--"), ("missed", GREEN, ":"))
    figure.legend(
        handles=[
            Line2D([], [], color=colour, linestyle=line, linewidth=1.6, label=name)
            for name, colour, line in meanings
        ],
        loc="outside lower center",
        ncols=3,
    )


def _detections(axes: Axes, found: Detections, boxes: Tensor, labels: Tensor) -> None:
    taken = matches(found, boxes, labels)
    for box, label, score, digit in zip(
        found.boxes, found.labels, found.scores, taken, strict=True
    ):
        right = bool(digit >= 0)
        _box(
            axes, box, f"{label} {score:.2f}", BLUE if right else VERMILION, "-" if right else "--"
        )
    for slot, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        if label >= 0 and slot not in taken:
            _box(axes, box, f"{label} missed", GREEN, ":")


def _box(axes: Axes, box: Tensor, text: str, colour: str, line: str) -> None:
    x1, y1, x2, y2 = box.tolist()
    axes.add_patch(
        Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=1.6
        )
    )
    axes.text(
        min(max(x1, 0), CANVAS - 12),
        max(y1, 4) - 0.5,
        text,
        color="white",
        fontsize=7.5,
        va="bottom",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
    )


def _smooth(values: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and mean of each SMOOTHED steps."""
    means = values[: len(values) // SMOOTHED * SMOOTHED].view(-1, SMOOTHED).mean(1)
    return torch.arange(1, len(means) + 1) * SMOOTHED - (SMOOTHED - 1) / 2, means
