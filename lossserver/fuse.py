"""A formula and its gradient as one function of flat tensors: what a kernel is made of.

A batch of rows wants the formula, its vector-Jacobian product, and the parts of
the cotangent that lie between. In eager torch each of their sixty or so
operations reads and writes the memory once. Written as one function they become
one kernel (compile.py), which reads its inputs once and writes its answers.

Two forms, since most callers want one number and some want ℓ itself:

    SUMS   (leaves…, scale[, weight]) → (Σ ℓ·weight of each row, gradient…)
           everybody's loss is reduced; upstream and divisor are in the scale.
    ROWS   (leaves…, cotangent) → (ℓ, gradient…)

Row i of an answer reads row i of the inputs and nothing else, here as everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lossserver.losses.cotangent import weighted
from lossserver.losses.rows import RowwiseLoss
from lossserver.tree import map_tensors, tensors

Form = Literal["sums", "rows"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fused:
    """A formula with its gradient, as a function of flat tensors.

    Attributes:
        formula: what is computed.
        inputs: the formula's inputs; of their tensors only the places in the trees are read.
        names: of the inputs whose gradients are wanted, sorted.
        form: what comes in after the leaves, and what comes out first.
    """

    formula: RowwiseLoss
    inputs: Mapping[str, Any]
    names: Sequence[str]
    form: Form

    def __call__(self, *flat: Tensor) -> list[Tensor | None]:
        """The values, then a gradient for each leaf of `wanted`; None where none reaches it."""
        count = len(tensors(self.inputs))
        inputs, leaves = self._tracked(flat[:count])
        with torch.set_grad_enabled(bool(leaves)):
            rows = self.formula.formula(**inputs)
        values = rows.detach()
        cotangent, *weights = flat[count:]
        for weight in weights:
            cotangent = weight * cotangent
            values = weighted(values, weight)
        if self.form == "sums":
            values = values.flatten(1).sum(1) if values.dim() > 1 else values
        cotangent = cotangent.expand(rows.shape)
        grads: Sequence[Tensor | None] = [None] * len(leaves)
        if leaves and rows.requires_grad:
            grads = torch.autograd.grad(rows, leaves, cotangent, allow_unused=True)
        return [values, *silenced(grads, self.formula, cotangent)]

    def _tracked(self, flat: Sequence[Tensor]) -> tuple[dict[str, Any], list[Tensor]]:
        """The inputs made of flat tensors, and those of them that autograd tracks."""
        own = iter([one.detach() for one in flat])
        inputs = {name: map_tensors(lambda _: next(own), self.inputs[name]) for name in self.inputs}
        return inputs, tracked(inputs, self.names)


def tracked(inputs: Mapping[str, Any], names: Sequence[str]) -> list[Tensor]:
    """The floating-point tensors of the inputs of those names, from now on tracked by autograd."""
    return [
        leaf.requires_grad_()
        for name in names
        for leaf in tensors(inputs[name])
        if leaf.is_floating_point()
    ]


def silenced(
    grads: Sequence[Tensor | None], formula: RowwiseLoss, cotangent: Tensor
) -> list[Tensor | None]:
    """0 where no cotangent reaches: there 0 times an infinite or NaN slope gave NaN."""
    zero = cotangent == 0
    return [
        None if grad is None else grad.masked_fill(formula.reach(zero, grad), 0) for grad in grads
    ]
