"""The curves of a loss: its value and gradient along one axis, as a caller would get them.

An axis is one number x that the inputs of a call are made from. The gradient is
that of the value by x: the gradients that the loss returns, carried on to x by
autograd through the making of the inputs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossclient.call import encode_call
from lossserver.compute import compute
from lossserver.decode import decode
from lossserver.job import Computed
from lossserver.tree import map_tensors, tensors

#: Points of a curve; odd, so that the middle of an axis is one of them.
POINTS = 121

#: Who waits for the answer: it is taken as soon as it is there.
NOBODY: Any = None

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One setting of a loss.

    Attributes:
        label: what is special about it.
        params: of its config.
        inputs: x → the inputs of its call; those of its plot if left out.
        output: the output that is drawn; the sum of all if left out.
    """

    label: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Callable[[Tensor], Inputs] | None = None
    output: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What is drawn of a loss.

    Attributes:
        caption: what is fixed and what moves, in a sentence.
        axis: what x is, with its unit.
        span: the least and the greatest x.
        inputs: x, a float64 scalar → the inputs of a call.
        lines: at most three settings.
        params: of all lines' configs.
        top: the greatest size of a value that is shown; None is all.
        steepest: that of a gradient.
    """

    caption: str
    axis: str
    span: tuple[float, float]
    inputs: Callable[[Tensor], Inputs]
    lines: tuple[Line, ...] = (Line("default"),)
    params: Mapping[str, Any] = field(default_factory=dict)
    top: float | None = None
    steepest: float | None = None


def settings(name: str, *values: Any) -> tuple[Line, ...]:
    """A line for each of several values of one parameter."""
    return tuple(Line(f"{name} = {_short(value)}", {name: value}) for value in values)


def outputs(*names: str) -> tuple[Line, ...]:
    """A line for each of several outputs."""
    return tuple(Line(name, output=name) for name in names)


def numbers(*rows: Any) -> Tensor:
    """float64, of numbers or nested lists."""
    return torch.tensor(rows, dtype=torch.float64)


def one(x: Tensor) -> Tensor:
    """A lone number as a [1, 1] tensor."""
    return x.view(1, 1)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Curve:
    """A line, computed: x, value and gradient of each point."""

    label: str
    x: list[float]
    value: list[float]
    gradient: list[float]


def curves(name: str, plot: Plot) -> list[Curve]:
    """All lines of a loss's plot."""
    return [_curve(name, plot, line) for line in plot.lines]


def _curve(name: str, plot: Plot, line: Line) -> Curve:
    config = {"type": name, **plot.params, **line.params}
    low, high = plot.span
    # So that the middle of -a..a is 0 exactly: a step is drawn the same on both sides.
    xs = [(low * (POINTS - 1 - i) + high * i) / (POINTS - 1) for i in range(POINTS)]
    points = [_point(config, line.inputs or plot.inputs, x, line.output) for x in xs]
    value, gradient = zip(*points, strict=True)
    return Curve(line.label, xs, list(value), list(gradient))


def _point(
    config: Mapping[str, Any], inputs: Callable[[Tensor], Inputs], at: float, output: str | None
) -> tuple[float, float]:
    """Value and gradient of one call."""
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    made = inputs(x)
    moved = [n for n, given in made.items() if any(t.requires_grad for t in tensors(given))]
    sent = map_tensors(lambda tensor: tensor.detach().numpy(), made)
    upstream = None
    if output is not None:
        shapes = {name: loss.shape for name, loss in _call(config, sent).losses.items()}
        upstream = {name: np.full(shape, float(name == output)) for name, shape in shapes.items()}
    computed = _call(config, sent, wrt=moved, grad_output=upstream)
    losses = computed.losses.values() if output is None else [computed.losses[output]]
    slope = sum(_slope(made[name], computed.grads[name], x) for name in moved)
    return sum(float(loss.sum()) for loss in losses), slope


def _call(
    config: Mapping[str, Any],
    sent: Mapping[str, Any],
    wrt: Iterable[str] = (),
    grad_output: Mapping[str, Any] | None = None,
) -> Computed:
    """What a server answers to these inputs, a state among them."""
    inputs = {name: given for name, given in sent.items() if name != "state"}
    message = encode_call(config, inputs, wrt=wrt, grad_output=grad_output, state=sent.get("state"))
    (computed,) = compute([decode(message, None, NOBODY)], torch.device("cpu"))
    return computed


def _slope(made: Any, grads: Any, x: Tensor) -> float:
    """The part of the derivative by x that goes through one input, a tensor or a tree of them."""
    if isinstance(made, Mapping):
        return sum(_slope(made[key], grads[key], x) for key in made)
    if isinstance(made, list):
        return sum(_slope(one, grad, x) for one, grad in zip(made, grads, strict=True))
    if not isinstance(made, Tensor) or not made.requires_grad or grads is None:
        return 0.0
    (slope,) = torch.autograd.grad(made, x, grads, retain_graph=True)
    return float(slope)
