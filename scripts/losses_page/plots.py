"""The picture of a loss: value and gradient beside each other, as SVG.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart,
and each line has its own dashes. The background is white and opaque, so that a
dark page does not swallow the text. The same curves give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.losses_page.curves import Curve, Plot

COLOURS = ("#0072B2", "#D55E00", "#009E73")
DASHES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)))
GREY = "#767676"

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "lossserver",
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
}

FONTS = "'DejaVu Sans', 'Verdana', 'Arial', sans-serif"

#: What is said at length or again and again in matplotlib's SVG, and what will do.
SHORTER: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"(<style[^>]*>)", rf"\1text{{font-family: {FONTS}}}"),
    (rf" ?font-family: {FONTS};", ""),
    (r' transform="rotate\(-0 [^"]*"', ""),
    # Numbers in tags, not those of the text between them.
    (r"\d+\.\d{3,}(?=[^<>]*>)", lambda found: f"{float(found[0]):.2f}"),
    # After "M x y" and after "L x y" a bare "x y" is a line, too.
    (r"\s+(?:L )?(?=[-\d])", " "),
    (r"\s*\n\s*", "\n"),
    (r'(?<=\d)\s+"', '"'),
    (r"<!DOCTYPE[^>]*>\n", ""),
    (r'; stroke-linecap: square"', '"'),
)


def draw(path: Path, plot: Plot, lines: list[Curve]) -> None:
    """Write the picture of a plot's curves, as SVG, or as PNG if the path says so."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.7), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        for line, colour, dashes in zip(lines, COLOURS, DASHES, strict=False):
            look = {"color": colour, "linestyle": dashes, "label": line.label}
            left.plot(line.x, line.value, **look)
            right.plot(line.x, line.gradient, **look)
        _finish(left, "value", plot.axis, [line.value for line in lines], plot.top)
        _finish(right, "gradient", plot.axis, [line.gradient for line in lines], plot.steepest)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(lines), handlelength=3)
        if path.suffix == ".svg":
            path.write_text(_svg(figure))
        else:
            figure.savefig(path, dpi=110)


def _finish(
    axes: Axes, title: str, label: str, curves: list[list[float]], most: float | None
) -> None:
    axes.set_title(title, loc="left", color=GREY)
    axes.set_xlabel(label)
    axes.set_axisbelow(True)
    axes.tick_params(bottom=False, left=False)
    axes.margins(x=0.01)
    most = math.inf if most is None else most
    shown = [max(-most, min(most, y)) for ys in curves for y in ys if math.isfinite(y)]
    low, high = min(shown), max(shown)
    # A flat line is drawn in the middle of a unit, not of its rounding errors.
    margin = 0.5 if high - low < 1e-6 else 0.06 * (high - low)
    axes.set_ylim(low - margin, high + margin)


def _svg(figure: Figure) -> str:
    """The figure, without date and version, at a third of the size that matplotlib gives it."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    for pattern, short in SHORTER:
        text = re.sub(pattern, short, text)
    return text
