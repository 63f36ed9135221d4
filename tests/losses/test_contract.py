"""What every registered loss promises; a new loss is held to all of it by one row of cases.py.

Calls go through `compute`, as they do in the server, alone and in company.
"""

from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

import losswire.errors
from lossclient.call import decode_reply, encode_call
from lossclient.torch import to_bytes, to_torch
from lossserver.card import card
from lossserver.compute import compute
from lossserver.decode import decode
from lossserver.encode import encode
from lossserver.job import Result
from lossserver.registry import LOSSES
from tests.losses.cases import CASES

CPU = torch.device("cpu")

every_loss = pytest.mark.parametrize("case", CASES, ids=str)


def job_of(config, pred, target, wrt=("pred",), weight=None, grad_output=None, **options):
    """The job that a client's message becomes."""
    inputs = {"pred": pred, "target": target, "weight": weight}
    packed = {k: None if v is None else to_bytes(v) for k, v in inputs.items()}
    upstream = None if grad_output is None else to_bytes(grad_output)
    message = encode_call(config, packed, wrt=wrt, grad_output=upstream, **options)
    return decode(message, None, Future())


def results(*jobs):
    """What the jobs give when they are computed as one batch, as a client sees it."""
    return [
        decode_reply(encode(Result(computed=c, batch=1, queue=0, compute=0), 0), to_torch)
        for c in compute(jobs, CPU)
    ]


def unreduced(case, pred, target, **options):
    job = job_of(case.config, pred, target, reduction_override="none", **options)
    return results(job)[0]


def test_every_registered_loss_has_a_case():
    """No loss is served that nothing here checks."""
    assert {case.config["type"] for case in CASES} == set(LOSSES)


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_card_is_complete(name):
    """The docstring describes every parameter and input, the result, the errors and the source."""
    found = card(name)

    assert all(parameter.text for parameter in found.parameters), found.parameters
    assert {i.name for i in found.inputs} == {"pred", "target", *LOSSES[name].INPUTS}
    assert found.source
    assert all(f"\n{section}:\n" in found.text for section in ("Returns", "Raises"))


@every_loss
def test_agrees_with_its_reference(case):
    """Values match an implementation written from the paper, in other arithmetic."""
    pred, target = case.inputs(5)

    torch.testing.assert_close(
        unreduced(case, pred, target).loss, case.reference(pred, target), rtol=1e-10, atol=1e-12
    )


@every_loss
def test_gradient_is_the_derivative(case):
    """The gradient is that of finite differences, for an upstream gradient that is not even."""
    pred, target = case.inputs(3)
    loss = LOSSES.build(case.config)
    fitted, shape = loss.fit(pred, target)
    upstream = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=pred.dtype)

    assert torch.autograd.gradcheck(
        lambda x: loss.formula(x, fitted), pred.clone().requires_grad_()
    )
    grad = unreduced(case, pred, target, grad_output=upstream).grad
    leaf = pred.clone().requires_grad_()
    own = torch.autograd.grad((loss.formula(leaf, fitted) * upstream).sum(), leaf)[0]
    torch.testing.assert_close(grad, own)


@every_loss
def test_no_row_feels_its_neighbour(case):
    """A NaN in one row changes no other row: not its loss, not its gradient."""
    pred, target = case.inputs(6)
    poisoned = pred.clone()
    poisoned[2] = torch.nan
    others = [0, 1, 3, 4, 5]
    clean, sick = (unreduced(case, p, target) for p in (pred, poisoned))

    assert torch.equal(clean.loss[others], sick.loss[others])
    assert torch.equal(clean.grad[others], sick.grad[others])
    assert sick.loss[2].isnan().any()


@every_loss
def test_a_row_without_weight_is_silent(case):
    """Where the weight is 0, loss and gradient are 0, even if the row is NaN or infinite."""
    pred, target = case.inputs(6)
    if not case.config.get("activated"):  # probabilities must be within [0, 1]
        pred[1] = torch.inf
    pred[2] = torch.nan
    shape = unreduced(case, pred, target, wrt=()).loss.shape
    weight = torch.ones(shape, dtype=pred.dtype)
    weight[1:3] = 0
    if LOSSES.build(case.config).fit(pred, target)[0].dim() < pred.dim() == len(shape):
        weight = weight[:, 0]  # class indices of sigmoid losses go with [N] weights
    result = unreduced(case, pred, target, weight=weight)

    assert not result.loss[1:3].any()
    assert not result.grad[1:3].any()
    assert result.loss.isfinite().all()
    assert result.grad.isfinite().all()


@every_loss
def test_no_rows_no_trouble(case):
    """An image without boxes is a normal request; its sum is 0 and its mean is what upstream's is."""
    pred, target = case.inputs(0)
    result = results(job_of(case.config, pred, target, reduction_override="sum"))[0]

    assert float(result.loss) == 0
    assert result.grad.shape == pred.shape


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_computed_in_float32(case, dtype):
    """A half's gradient is the float32 one, rounded once; a reduced loss stays float32."""
    pred, target = case.inputs(4)
    half = pred.to(dtype)
    wide = target if not target.is_floating_point() else target.to(dtype).float()
    ours = results(
        job_of(case.config, half, target.to(dtype) if target.is_floating_point() else target)
    )[0]
    exact = results(job_of(case.config, half.float(), wide))[0]

    assert ours.loss.dtype is torch.float32
    assert torch.equal(ours.loss, exact.loss)
    assert torch.equal(ours.grad, exact.grad.to(dtype))


@every_loss
@pytest.mark.parametrize("avg_factor", [None, 3.5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_follow_from_the_rows(case, reduction, avg_factor):
    """A reduced loss and its gradient are those of the unreduced one, summed and divided."""
    pred, target = case.inputs(4)
    config = case.config | {"loss_weight": 0.7}
    if reduction == "sum" and avg_factor is not None:
        with pytest.raises(losswire.errors.RequestError, match="avg_factor: goes with"):
            job_of(config, pred, target, reduction_override="sum", avg_factor=avg_factor)
        return
    rows = unreduced(case, pred, target)
    divisor = 1.0 if reduction == "sum" else avg_factor or rows.loss.numel()
    result = results(
        job_of(config, pred, target, reduction_override=reduction, avg_factor=avg_factor)
    )[0]

    torch.testing.assert_close(result.loss, 0.7 * rows.loss.sum() / divisor, rtol=1e-6, atol=0)
    torch.testing.assert_close(result.grad, 0.7 * rows.grad / divisor, rtol=1e-6, atol=0)


def weight_of(case, pred, target, *values):
    """A weight [N], or [N, 1, ...] where the loss has more dimensions and takes it as its rows."""
    weight = torch.tensor(values, dtype=pred.dtype)
    rows = unreduced(case, pred, target, wrt=()).loss
    by_class_index = target.dim() < pred.dim() == rows.dim()
    return weight if by_class_index else weight.view(-1, *[1] * (rows.dim() - 1))


@every_loss
def test_company_changes_nothing(case):
    """Callers of all sizes, reductions, weights and upstream gradients get what each gets alone."""
    some, more = case.inputs(3), case.inputs(5)
    poisoned = more[0].clone()
    poisoned[1] = torch.nan
    upstream = torch.rand(unreduced(case, *more, wrt=()).loss.shape, dtype=torch.float64)
    calls = [
        (some, {"reduction_override": "sum"}),
        (case.inputs(1), {"avg_factor": 2.0}),
        (case.inputs(4), {"reduction_override": "none"}),
        (some, {"weight": weight_of(case, *some, 0.0, 2.0, 1.0)}),
        (more, {"reduction_override": "none", "grad_output": upstream}),
        ((poisoned, more[1]), {}),
        ((poisoned, more[1]), {"avg_factor": float("inf")}),
    ]
    jobs = [job_of(case.config, *inputs, **options) for inputs, options in calls]

    assert len({job.key for job in jobs}) == 1
    for a, job in zip(results(*jobs), jobs, strict=True):
        (b,) = results(job)
        torch.testing.assert_close(a.loss, b.loss, equal_nan=True)
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


@every_loss
def test_alone_is_as_in_a_batch(case):
    """Autograd through everything, as for a loss that makes no promise, gives the same gradients."""
    pred, target = case.inputs(4)
    job = job_of(
        case.config,
        pred,
        target,
        weight=weight_of(case, pred, target, 0.5, 2.0, 0.0, 1.0),
        wrt=("pred", "weight"),
        avg_factor=3.0,
        grad_output=torch.tensor(1.7, dtype=torch.float64),
    )
    batched, alone = results(job)[0], results(replace(job, rows=None))[0]

    torch.testing.assert_close(batched.loss, alone.loss)
    torch.testing.assert_close(batched.grad, alone.grad)
    torch.testing.assert_close(batched.grads["weight"], alone.grads["weight"])
    assert batched.grads["weight"].all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_loss
def test_on_cuda_as_on_the_cpu(case):
    """Batched and alone, a CUDA device gives the CPU's loss and gradient."""
    cuda = torch.device("cuda")
    pred, target = case.inputs(4)
    job = job_of(case.config, pred, target, weight=weight_of(case, pred, target, 0.5, 2, 0, 1))
    (expected,) = compute([job], CPU)

    for computed in (*compute([job, job], cuda), *compute([replace(job, rows=None)], cuda)):
        torch.testing.assert_close(computed.losses, expected.losses)
        torch.testing.assert_close(computed.grads, expected.grads)


@every_loss
def test_the_weight_of_a_row_that_is_not_finite(case):
    """The gradient of a weight of 0 on a NaN row is 0: it was left out."""
    pred, target = case.inputs(4)
    pred[2] = torch.nan
    weight = weight_of(case, pred, target, 0.5, 2.0, 0.0, 1.0)
    (result,) = results(job_of(case.config, pred, target, weight=weight, wrt=("weight",)))

    assert result.grads["weight"].flatten()[[0, 1, 3]].all()
    assert not result.grads["weight"].flatten()[2]


@pytest.mark.parametrize(
    "config",
    [
        {"type": "CrossEntropyLoss", "use_sigmoid": True},
        {"type": "FocalLoss", "gamma": 0.0, "alpha": 0.5},
        {"type": "FocalLoss"},
    ],
    ids=str,
)
def test_easy_answers_keep_their_precision(config):
    """In float32 the gradient of a sure and right logit is as exact as any: nothing cancels."""
    pred = torch.tensor([-30.0, -17, -10, -1, 1, 10, 17, 30]).view(-1, 1)
    for target in (torch.zeros_like(pred), torch.ones_like(pred)):
        (narrow,) = results(job_of(config, pred, target))
        (wide,) = results(job_of(config, pred.double(), target.double()))
        # Where upstream's 1 - p_t rounds to nothing, so does ours; elsewhere 1e-5 is enough.
        right = (target == 0) | (pred < 10)

        torch.testing.assert_close(narrow.grad[right].double(), wide.grad[right], rtol=1e-5, atol=0)
