"""The picture: how both runs went, what anchors were for, and what the detector sees.

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
from examples.digits.anchors import GRIDS, RATIOS, STRIDES, all_anchors
from examples.digits.assignment import Targets
from examples.digits.canvases import CANVAS, CLASSES, Canvases
from examples.digits.evaluate import SURE, Detections, detect, matches
from examples.digits.training import WATCHED_EVERY, Run

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

#: Held-out canvases that are shown.
SHOWN = 10

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


def draw(path: Path, remote: Run, local: Run, targets: Targets, canvases: Canvases) -> None:
    """Write the picture as PNG.

    Parameters:
        path: where to.
        remote: the run with losses from the server.
        local: the run with local losses.
        targets: of the canvases' anchors; those of the first canvas are drawn.
        canvases: held-out ones; the remote run's model is shown the first ten.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15, 11), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.4))
        left, middle, right = top.subplots(1, 3, width_ratios=(1.2, 0.9, 1.2))
        _losses(left, remote, local)
        _anchors(middle, targets, canvases)
        _weights(right, remote, local)
        _canvases(bottom, detect(remote.model, canvases.images[:SHOWN]), canvases)
        figure.savefig(path)


def _losses(axes: Axes, remote: Run, local: Run) -> None:
    for column, colour, what in ((0, BLUE, "loss_cls"), (1, VERMILION, "loss_bbox")):
        step, there = _smooth(remote.losses[:, column])
        axes.plot(step, there, color=colour, linewidth=4, alpha=0.4, label=f"{what}, remote")
        step, here = _smooth(local.losses[:, column])
        axes.plot(step, here, color=colour, linewidth=1.3, linestyle="--", label=f"{what}, local")
    axes.set_yscale("log")
    axes.set(
        title="One training, remote RetinaHead and local",
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
        title="How far apart the weights of both runs are",
        xlabel="step",
        ylabel="|remote - local|",
        ylim=(None, allowed[-1] * 10),
    )
    axes.legend(loc="upper left")


def _anchors(axes: Axes, targets: Targets, canvases: Canvases) -> None:
    """The first canvas, its digits, and the anchors that are for them, a colour a level."""
    _canvas(axes, canvases.images[0, 0])
    for box in canvases.boxes[0][canvases.labels[0] >= 0]:
        _frame(axes, box, GREEN, ":", 2.4)
    counts = [len(RATIOS) * grid * grid for grid in GRIDS]
    levels = zip(all_anchors().split(counts), targets.labels[0].split(counts), strict=True)
    kinds = [(BLUE, "-"), (VERMILION, "--")]
    meanings = [Line2D([], [], color=GREEN, linestyle=":", linewidth=2.4, label="digit")]
    for stride, (anchors, labels), (colour, line) in zip(STRIDES, levels, kinds, strict=True):
        own = anchors[labels < CLASSES]
        for box in own:
            _frame(axes, box, colour, line, 1.0)
        name = f"{len(own)} anchors of stride {stride}"
        meanings.append(Line2D([], [], color=colour, linestyle=line, linewidth=1, label=name))
    axes.set_title("Anchors that are for a digit, by client.assign")
    axes.legend(handles=meanings, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)


def _canvases(figure: SubFigure, found: list[Detections], canvases: Canvases) -> None:
    figure.suptitle(
        f"Held-out canvases: detections with a score of {SURE} or more, as digit and score",
        fontsize=11,
        fontweight="bold",
    )
    for index, axes in enumerate(figure.subplots(2, SHOWN // 2).flat):
        _canvas(axes, canvases.images[index, 0])
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


def _canvas(axes: Axes, image: Tensor) -> None:
    axes.imshow(image, cmap="gray_r", vmin=-0.1, vmax=1.6, extent=(0, CANVAS, CANVAS, 0))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GREY)


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
    _frame(axes, box, colour, line, 1.6)
    axes.text(
        min(max(float(box[0]), 0), CANVAS - 12),
        max(float(box[1]), 4) - 0.5,
        text,
        color="white",
        fontsize=7.5,
        va="bottom",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
    )


def _frame(axes: Axes, box: Tensor, colour: str, line: str, width: float) -> None:
    x1, y1, x2, y2 = box.tolist()
    style = {"fill": False, "edgecolor": colour, "linestyle": line, "linewidth": width}
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def _smooth(values: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and mean of each SMOOTHED steps."""
    means = values[: len(values) // SMOOTHED * SMOOTHED].view(-1, SMOOTHED).mean(1)
    return torch.arange(1, len(means) + 1) * SMOOTHED - (SMOOTHED - 1) / 2, means
