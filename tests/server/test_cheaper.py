"""lossserver.cheaper: kernels of the CPU have sigmoid and softplus out of one exponential."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx.experimental.proxy_tensor import make_fx

from lossserver.cheaper import CHEAPER, log1p, sigmoid, softplus, softplus_backward, without_signs
from lossserver.losses.classes import sigmoid_entropy
from tests.server.recipes import focal

#: From sure to sure, near 0 on either side, and what has no neighbours.
EDGES = [0.0, -0.0, 1e-30, -1e-30, 16.9, 17.1, -87.0, -87.5, 88.8, 1e30, -1e30]
LOGITS = torch.cat([torch.linspace(-87, 87, 200_001), torch.tensor(EDGES)])

ULP = torch.finfo(torch.float32).eps

softplus_40 = functools.partial(F.softplus, threshold=40)


def off(own, exact):
    """The largest relative error, in ulps; what is below the least normal number is 0."""
    least = torch.finfo(torch.float32).tiny
    return ((own - exact).abs() / (exact.abs() * ULP + least)).max()


def traced(function, *arguments):
    """Its graph, as kernels are made of it."""

    def plain(*given):
        return function(*given)  # a partial, or a callable object, is not traced

    return without_signs(make_fx(plain, dict(CHEAPER), "symbolic")(*arguments))


def count(graph, operation):
    """How often a graph has an operation, where what is equal is computed once."""
    return sum(f"aten.{operation}." in str(node.target) for node in fx_graph_cse(graph.graph).nodes)


def test_the_logarithm_is_within_two_ulp():
    """Of every t that an exponential of a negative number may be."""
    t = torch.cat([torch.linspace(0, 1, 200_001), torch.logspace(-37, 0, 200_001)])

    assert off(log1p(t), t.double().log1p()) < 2


def test_sigmoid_and_softplus_are_within_three_ulp():
    """Of doubles, whatever the logit; and so is the slope."""
    exact = LOGITS.double()

    assert off(sigmoid(LOGITS), exact.sigmoid()) < 3
    assert off(softplus(LOGITS, 1, 40), F.softplus(exact, threshold=800)) < 3
    assert off(softplus_backward(torch.ones(()), LOGITS, 1, 40), exact.sigmoid()) < 3


@pytest.mark.parametrize("function", [sigmoid, functools.partial(softplus, threshold=40)])
def test_what_is_no_number_stays_so(function):
    """A NaN is no 0, and an infinite logit has the limit."""
    own = function(torch.tensor([torch.nan, torch.inf, -torch.inf]))
    limit = 1.0 if function is sigmoid else torch.inf

    assert own[0].isnan()
    assert own[1:].tolist() == [limit, 0]


def test_a_kernel_has_them():
    """Focal loss and its slope take one exponential an element, and no logarithm."""
    recipe = focal()
    graph = traced(recipe.fused, *recipe.example)

    assert count(graph, "exp") == 1
    assert count(graph, "softplus") == count(graph, "sigmoid") == count(graph, "log1p") == 0


def test_both_signs_of_a_logit_have_one_exponential():
    """Binary cross entropy, which takes the softplus of either, pays for one."""
    logits, target = torch.randn(5, 3), torch.rand(5, 3)
    graph = traced(sigmoid_entropy, logits, target)

    assert count(graph, "exp") == 1
    torch.testing.assert_close(graph(logits, target), sigmoid_entropy(logits, target))


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (torch.sigmoid, torch.zeros(2, dtype=torch.float64)),
        (softplus_40, torch.zeros(2, dtype=torch.float64)),
        (functools.partial(F.softplus, beta=2), torch.zeros(2)),
        (functools.partial(F.softplus, threshold=5), torch.zeros(2)),
    ],
)
def test_all_else_stays_torchs_own(function, given):
    """Doubles, and a softplus that is another function."""
    assert count(traced(function, given), "exp") == 0
