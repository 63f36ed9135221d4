"""The losses of torch.nn, against torch.nn itself."""

import pytest
import torch
from torch import nn

from lossserver.registry import LOSSES
from lossserver.tree import tensors
from tests.losses.calls import answer, assert_all_close, job_of, results
from tests.losses.case import normal, uniform, whole
from tests.losses.cases import torch_binary, torch_classes, torch_likelihoods, torch_margins
from tests.losses.torch_modules import (
    BOTH,
    IGNORED,
    TABLE,
    WEIGHTS,
    assert_as_torch,
    grid,
    module_of,
    with_ignored,
)

EVERY = [
    pytest.param(
        {"type": f"torch.{name}", **params, "reduction": reduction},
        make,
        names.split(),
        id=f"{i}-{name}-{params}-{reduction}",
    )
    for i, (name, combinations, make, names) in enumerate(TABLE)
    for params in combinations
    for reduction in (["none", "mean", "sum"] + ["batchmean"] * (name == "KLDivLoss"))
]


@pytest.mark.parametrize(("config", "make", "names"), EVERY)
def test_as_torch(config, make, names):
    """Value and gradient are torch's own, for all parameters and reductions."""
    assert_as_torch(config, make(7), names, module_of(config))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ["BCELoss", "BCEWithLogitsLoss"])
def test_the_weight_of_torchs_constructor_is_an_input(name, reduction):
    """What torch's constructor takes as a weight of the elements is the input `weight` here."""
    inputs = torch_binary.probabilities(4)
    weight = uniform(3, seed=3)
    module = getattr(nn, name)(weight=weight, reduction=reduction)
    config = {"type": f"torch.{name}", "reduction": reduction}
    ours = answer(config, inputs | {"weight": weight})

    assert_all_close(ours.loss, module(inputs["pred"], inputs["target"]))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_positives_of_a_map_are_weighted_by_an_input(reduction):
    """A pos_weight sent as a tensor broadcasts with pred."""
    inputs = {"pred": normal(2, 3, 4, 4), "target": uniform(2, 3, 4, 4)}
    weight = 1 + uniform(3, 1, 1, seed=3)
    config = {"type": "torch.BCEWithLogitsLoss", "reduction": reduction}
    module = nn.BCEWithLogitsLoss(pos_weight=weight, reduction=reduction)

    assert_as_torch(config, inputs | {"pos_weight": weight}, ["pred", "target"], module)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="needs torch 2.13")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "params", grid(bias=BOTH, weight=[None, torch_margins.WEIGHTS], label_smoothing=[0.0, 0.2])
)
@pytest.mark.parametrize("out_features", [(), (2,), (2, 3)], ids=str)
def test_linear_cross_entropy_as_torch(out_features, params, reduction):
    """Value and gradient, also of the layer's parameters, are torch's."""
    params = params | {"out_features": out_features, "reduction": reduction}
    sizes = {"in_features": 3, "num_classes": 4}
    weight = params["weight"] and torch.tensor(params["weight"], dtype=torch.float64)
    module = nn.LinearCrossEntropyLoss(**sizes, **params | {"weight": weight}).double()
    inputs = {
        "pred": normal(5, 3),
        "target": whole(5, *out_features, high=3),
        **{f"linear_{name}": value.detach() for name, value in module.linear.named_parameters()},
    }
    names = list(inputs)

    def call(pred, target, *parameters):
        named = zip(("linear.weight", "linear.bias"), parameters, strict=False)
        return torch.func.functional_call(module, dict(named), (pred, target))

    config = {"type": "torch.LinearCrossEntropyLoss", **sizes, **params}
    assert_as_torch(config | {"out_features": list(out_features)}, inputs, names, call)


@pytest.mark.parametrize("head_bias", BOTH)
@pytest.mark.parametrize("rows", [1, 6, None], ids=str)
def test_adaptive_log_softmax_as_torch(rows, head_bias):
    """Loss, output and the gradients of all parameters are torch's."""
    sizes = {"in_features": 8, "n_classes": 20, "cutoffs": [4, 9], "div_value": 2.0}
    module = nn.AdaptiveLogSoftmaxWithLoss(**sizes, head_bias=head_bias).double()
    pred, target = normal(rows or 1, 8), whole(rows or 1, high=19)
    if rows is None:
        pred, target = pred[0], target[0]
    found = module(pred.requires_grad_(), target)
    leaves = [pred, *module.parameters()]
    theirs = torch.autograd.grad(found.loss, leaves, allow_unused=True, materialize_grads=True)
    bias = {"head_bias": module.head.bias.detach()} if head_bias else {}
    inputs = {
        "pred": pred.detach(),
        "target": target,
        "head_weight": module.head.weight.detach(),
        **bias,
        "tail": [[layer.weight.detach() for layer in cluster] for cluster in module.tail],
    }
    config = {"type": "torch.AdaptiveLogSoftmaxWithLoss", **sizes, "head_bias": head_bias}
    names = ["pred", "head_weight", *bias, "tail"]
    ours = answer(config, inputs, wrt=names)
    rows_of_it = answer(config, inputs, reduction_override="none")

    assert_all_close(ours.loss, found.loss.detach())
    assert_all_close(rows_of_it.loss, -found.output.detach())
    assert_all_close(tensors([ours.grads[name] for name in names]), list(theirs))


def test_callers_in_a_batch_have_their_own_divisors():
    """The mean of each divides by the weights of its own labels, none of them in the formula."""
    config = {
        "type": "torch.CrossEntropyLoss",
        "weight": WEIGHTS,
        "ignore_index": IGNORED,
    }
    calls = [with_ignored(torch_classes.labels)(rows) for rows in (2, 5, 9)]
    jobs = [job_of(config, inputs) for inputs in calls]

    assert len({job.key for job in jobs}) == 1
    for inputs, found in zip(calls, results(*jobs), strict=True):
        theirs = module_of(config)(inputs["pred"], inputs["target"])
        assert_all_close(found.loss, theirs)


def test_an_avg_factor_means_what_it_does_everywhere():
    """With an avg_factor, which torch has not, a mean divides by it, and not by a number near it."""
    inputs = torch_classes.labels(5)
    config = {"type": "torch.CrossEntropyLoss", "weight": WEIGHTS}
    total = answer(config, inputs, reduction_override="sum").loss

    assert_all_close(answer(config, inputs, avg_factor=2.0).loss, total / 2, rtol=1e-15, atol=0)


def test_a_batchmean_may_be_overridden():
    """The override is the reduction, with its own divisor."""
    inputs = torch_likelihoods.distributions(5)
    config = {"type": "torch.KLDivLoss", "reduction": "batchmean"}
    total = answer(config, inputs, reduction_override="sum").loss

    assert_all_close(answer(config, inputs).loss, total / 5)
    assert_all_close(answer(config, inputs, reduction_override="mean").loss, total / 20)
    assert_all_close(answer(config, inputs, avg_factor=3.0).loss, total / 3)


def test_nothing_that_counts_has_no_mean():
    """The mean over ignored labels alone is NaN, their sum 0, as in torch."""
    inputs = {"pred": normal(3, 3), "target": torch.full((3,), IGNORED)}
    config = {"type": "torch.NLLLoss", "ignore_index": IGNORED}

    assert answer(config, inputs).loss.isnan()
    assert answer(config, inputs, reduction_override="sum").loss == 0


def test_old_name():
    """NLLLoss2d is NLLLoss."""
    assert LOSSES["torch.NLLLoss2d"] is LOSSES["torch.NLLLoss"]
