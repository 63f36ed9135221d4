"""What kernels are made of, for tests."""

import torch

import lossserver.losses  # noqa: F401  (registers them)
from lossserver.fuse import Fused
from lossserver.kernel import Recipe
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES


def recipe_of(loss, form, inputs, last):
    """What a kernel of the loss and its gradient by pred is made of."""
    rows = loss.rows(Call(inputs=inputs, wrt=frozenset({"pred"})))
    fused = Fused(formula=rows.formula, inputs=rows.inputs, names=["pred"], form=form)
    return Recipe(fused=fused, example=[*rows.leaves, *last], device="cpu")


def focal():
    """Of class indices, reduced, with a weight a row."""
    inputs = {"pred": torch.randn(5, 80), "target": torch.tensor([0, 79, 80, 3, 80])}
    last = [torch.full((5, 1), 0.3), torch.rand(5, 1)]
    return recipe_of(LOSSES.build({"type": "FocalLoss"}), "sums", inputs, last)


def smooth():
    """Of numbers, unreduced."""
    inputs = {"pred": torch.randn(5, 4), "target": torch.randn(5, 4)}
    return recipe_of(LOSSES.build({"type": "SmoothL1Loss"}), "rows", inputs, [torch.rand(5, 4)])
