"""lossserver.make_kernel: a kernel that disagrees with eager torch is not taken."""

import pytest
import torch

from lossserver.make_kernel import DisagreesError, compare
from lossserver.registry import LOSSES
from tests.server.recipes import focal, recipe_of, smooth


def test_another_value_is_refused():
    """A kernel whose gradient is off by one part in a thousand is not taken."""
    recipe = focal()

    def wrong(arguments):
        values, grad = recipe.fused(*arguments)
        return [values, grad * 1.001]

    with pytest.raises(DisagreesError, match="answer 1 of 2 rows, as sent"):
        compare(wrong, recipe.fused, recipe.example)


def test_a_nan_that_is_hidden_is_refused():
    """A kernel that makes a number of a NaN is not taken."""
    recipe = focal()

    def wrong(arguments):
        return [one.nan_to_num() for one in recipe.fused(*arguments)]

    with pytest.raises(DisagreesError, match="answer 0 of 2 rows, with a NaN"):
        compare(wrong, recipe.fused, recipe.example)


def test_a_kernel_that_always_says_nan_is_refused():
    """Even if the caller whose rows are the example sent nothing but NaN."""
    recipe = focal()
    recipe.example[0].fill_(torch.nan)

    def wrong(arguments):
        return [one * torch.nan for one in recipe.fused(*arguments)]

    with pytest.raises(DisagreesError):
        compare(wrong, recipe.fused, recipe.example)


def test_a_caller_cannot_have_a_good_kernel_refused():
    """Numbers that overflow in one order of operations and not in another decide nothing."""
    inputs = {"pred": torch.tensor([[1e20], [1e30]]), "target": torch.zeros(2, 1)}
    recipe = recipe_of(
        LOSSES.build({"type": "MSELoss"}), "rows", inputs, [torch.full((2, 1), 1e10)]
    )

    def other(arguments):
        values, grad = recipe.fused(*arguments)
        return [values.where(values < 1e30, torch.nan), grad.where(grad < 1e30, torch.nan)]

    compare(other, recipe.fused, recipe.example)


def test_eager_agrees_with_itself():
    """What is no kernel at all is within the tolerance."""
    recipe = smooth()
    compare(lambda arguments: recipe.fused(*arguments), recipe.fused, recipe.example)


def test_a_row_may_be_large():
    """A kernel of whole images is compared on a few of them, not on thousands."""
    inputs = {"pred": torch.rand(2, 1 << 16), "target": torch.rand(2, 1 << 16)}
    recipe = recipe_of(LOSSES.build({"type": "MSELoss"}), "rows", inputs, [torch.ones(2, 1 << 16)])
    rows = []

    def watched(arguments):
        rows.append(len(arguments[0]))
        return recipe.fused(*arguments)

    compare(watched, recipe.fused, recipe.example)

    assert sorted(set(rows)) == [2, 3, 16]
