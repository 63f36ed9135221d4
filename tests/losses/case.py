"""One row a loss or form of it: config, an input maker, and a reference written from the paper.

The references are scalar arithmetic of Python's math module, an element at a
time, and share no code with the losses. cases/ has them, one module a family.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A loss, inputs for it, and what it must give.

    Attributes:
        config: the registry's config.
        inputs: rows → inputs by name; floats in float64, `pred` among them.
        reference: the inputs by name → the unreduced loss (as it is, for a loss without reduction), or
            a dict of outputs by name. None where the golden cases of this name stand for it.
        wrt: inputs whose gradients are checked.
        weights: how a weight a row is sent: "vector", [N], or "column", [N, 1, ...] with as many
            dimensions as the loss.
        options: of the call, such as avg_factor.
        reduces_otherwise: why a mean is not the sum of the rows over their number.
        stops: why the gradient is not the derivative of the value, where it is not; then `gradient`
            or golden cases must stand for it.
        gradient: the inputs by name → that of the sum of the unreduced loss, by names of wrt.
    """

    config: dict[str, Any]
    inputs: Callable[[int], Inputs]
    reference: Callable[..., Any] | None = None
    wrt: tuple[str, ...] = ("pred",)
    weights: str = "column"
    reduces_otherwise: str = ""
    stops: str = ""
    gradient: Callable[..., dict[str, Tensor]] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        plain = {k: v for k, v in self.config.items() if k != "type" and not isinstance(v, dict)}
        given = ",".join(f"{k}={v}" for k, v in plain.items())
        return f"{self.config['type']}({given})"


def generator(rows: int) -> torch.Generator:
    """Random numbers that depend on the number of rows alone."""
    return torch.Generator().manual_seed(rows)


def normal(rows: int, *shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers [rows, *shape], float64."""
    g = torch.Generator().manual_seed(1000 * seed + rows)
    return torch.randn(rows, *shape, generator=g, dtype=torch.float64)


def uniform(rows: int, *shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1) [rows, *shape], float64."""
    g = torch.Generator().manual_seed(1000 * seed + rows)
    return torch.rand(rows, *shape, generator=g, dtype=torch.float64)


def whole(rows: int, *shape: int, low: int = 0, high: int, seed: int = 0) -> Tensor:
    """Whole numbers in low..high, both included, [rows, *shape], int64."""
    g = torch.Generator().manual_seed(1000 * seed + rows)
    return torch.randint(low, high + 1, (rows, *shape), generator=g)


def sigmoid(x: float) -> float:
    """Of one number."""
    return 1 / (1 + math.exp(-x))


def each(formula: Callable[..., float]) -> Callable[..., Tensor]:
    """A formula of two numbers, over all elements of pred and target."""

    def reference(pred: Tensor, target: Tensor) -> Tensor:
        pairs = zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True)
        return torch.tensor([formula(p, t) for p, t in pairs], dtype=pred.dtype).reshape(pred.shape)

    return reference


def by_row(formula: Callable[..., Any]) -> Callable[..., Tensor]:
    """A formula of one row of each input, as (nested lists of) numbers, over all rows."""

    def reference(**inputs: Tensor) -> Tensor:
        rows = zip(*(tensor.tolist() for tensor in inputs.values()), strict=True)
        values = [formula(**dict(zip(inputs, row, strict=True))) for row in rows]
        return torch.tensor(values, dtype=torch.float64)

    return reference
