"""What a loss promises whose rows are independent: that no neighbour is ever noticed."""

from dataclasses import replace

import pytest
import torch

from lossserver.losses.rows import Exact, RowwiseLoss
from lossserver.registry import LOSSES
from lossserver.tree import tensors
from losswire.errors import TensorError
from tests.losses.calls import answer, assert_all_close, job_of, poisoned, results, unreduced
from tests.losses.cases import CASES

ROWWISE = [case for case in CASES if issubclass(LOSSES[case.config["type"]], RowwiseLoss)]
WEIGHTED = [case for case in ROWWISE if "weight" in LOSSES[case.config["type"]].TAKES]

#: Losses that take a weight, but not one a row that multiplies the row of a single output.
OTHERWISE = {
    "EQLV2Loss": "does not look at it",
    "L2Loss": "has one an element",
    "MarginL2Loss": "has one an element",
    "SeesawLoss": "has two outputs of other rows",
}
ANY_WEIGHTED = [
    case
    for case in CASES
    if "weight" in LOSSES[case.config["type"]].TAKES
    and "reduction_override" in LOSSES[case.config["type"]].OPTIONS
    and case.config["type"] not in OTHERWISE
]

every_rowwise = pytest.mark.parametrize("case", ROWWISE, ids=str)
every_weighted = pytest.mark.parametrize("case", WEIGHTED, ids=str)


def weighing(case, inputs, *values):
    """The inputs with a weight a row."""
    weight = torch.tensor(values, dtype=torch.float64)
    if case.weights == "column":
        rows = unreduced(case, inputs, wrt=()).loss
        weight = weight.view(-1, *[1] * (rows.dim() - 1))
    return inputs | {"weight": weight}


@every_rowwise
def test_no_row_feels_its_neighbour(case):
    """A NaN in one row changes no other row: not its loss, not its gradient."""
    inputs = case.inputs(6)
    others = [0, 1, 3, 4, 5]
    clean, sick = unreduced(case, inputs), unreduced(case, poisoned(inputs, 2, torch.nan))

    assert torch.equal(clean.loss[others], sick.loss[others])
    for a, b in zip(tensors(clean.grad), tensors(sick.grad), strict=True):
        assert torch.equal(a[others], b[others])
    assert sick.loss[2].isnan().any()


@every_weighted
def test_a_row_without_weight_is_silent(case):
    """Where the weight is 0, loss and gradient are 0, even if the row is NaN or infinite."""
    inputs = weighing(case, case.inputs(6), 1, 0, 0, 1, 1, 1)
    inputs = poisoned(inputs, 2, torch.nan)
    # Probabilities must be within [0, 1].
    if not case.config.get("activated") and case.config["type"] != "torch.BCELoss":
        inputs = poisoned(inputs, 1, torch.inf)
    result = unreduced(case, inputs)

    assert not result.loss[1:3].any()
    assert result.loss.isfinite().all()
    for grad in tensors(result.grad):
        assert not grad[1:3].any()
        assert grad.isfinite().all()


@every_rowwise
def test_company_changes_nothing(case):
    """Callers of all sizes, reductions, weights and upstream gradients get what each gets alone."""
    some, more = case.inputs(3), case.inputs(5)
    sick = poisoned(more, 1, torch.nan)
    upstream = torch.rand(unreduced(case, more, wrt=()).loss.shape, dtype=torch.float64)
    calls = [
        (some, {"reduction_override": "sum"}),
        (case.inputs(1), {"avg_factor": 2.0}),
        (case.inputs(4), {"reduction_override": "none"}),
        (more, {"reduction_override": "none", "grad_output": upstream}),
        (sick, {}),
        (sick, {"avg_factor": float("inf")}),
    ]
    if case in WEIGHTED:
        calls.append((weighing(case, some, 0.0, 2.0, 1.0), {}))
    jobs = [job_of(case.config, inputs, **options) for inputs, options in calls]

    assert len({job.key for job in jobs}) == 1
    for a, job in zip(results(*jobs), jobs, strict=True):
        (b,) = results(job)
        assert_all_close(a.loss, b.loss)
        assert_all_close(a.grad, b.grad)


@pytest.mark.parametrize("case", ANY_WEIGHTED, ids=str)
def test_a_weight_of_two_counts_twice(case):
    """It doubles its row, and no other, also where rows read each other."""
    inputs = case.inputs(4)
    once, twice = (unreduced(case, weighing(case, inputs, 1, w, 1, 1), wrt=()) for w in (1, 2))
    expected = once.loss.clone()
    expected[1] *= 2

    assert_all_close(twice.loss, expected)


@every_weighted
def test_alone_is_as_in_a_batch(case):
    """Autograd through everything, as for a loss that makes no promise, gives the same gradients."""
    inputs = weighing(case, case.inputs(4), 0.5, 2.0, 0.0, 1.0)
    upstream = torch.tensor(1.7, dtype=torch.float64)
    job = job_of(case.config, inputs, wrt=("pred", "weight"), avg_factor=3.0, grad_output=upstream)
    batched, alone = results(job)[0], results(replace(job, rows=None))[0]

    assert_all_close(batched.loss, alone.loss)
    assert_all_close(batched.grad, alone.grad)
    assert_all_close(batched.grads["weight"], alone.grads["weight"])


@every_weighted
def test_the_weight_of_a_row_that_is_not_finite(case):
    """The gradient of a weight of 0 on a NaN row is 0: it was left out."""
    inputs = weighing(case, case.inputs(4), 0.5, 2.0, 0.0, 1.0)
    clean = answer(case.config, inputs, wrt=("weight",)).grads["weight"].flatten()
    sick = poisoned(inputs, 2, torch.nan)
    grad = answer(case.config, sick, wrt=("weight",)).grads["weight"].flatten()

    assert_all_close(grad[[0, 1, 3]], clean[[0, 1, 3]])
    assert not grad[2]


@pytest.mark.parametrize(
    "case", [c for c in WEIGHTED if issubclass(LOSSES[c.config["type"]], Exact)], ids=str
)
def test_a_weight_makes_no_square(case):
    """A weight that would broadcast the rows to another shape, as [N, 1] does [N], is refused."""
    inputs = case.inputs(3)
    shape = unreduced(case, inputs, wrt=()).loss.shape
    with pytest.raises(TensorError, match="weight: must not broadcast the loss"):
        answer(case.config, inputs | {"weight": torch.ones(3, *shape)})


def test_company_is_of_one_precision():
    """A float64 weight makes the call a float64 one, alone and in company."""
    inputs = {"pred": torch.rand(3, 4), "target": torch.rand(3, 4), "weight": torch.rand(3, 4)}
    wide = inputs | {"weight": inputs["weight"].double()}
    narrow, job = (
        job_of({"type": "MSELoss"}, one, reduction_override="none") for one in (inputs, wide)
    )
    batched, alone = results(job)[0], results(replace(job, rows=None))[0]

    assert narrow.key != job.key
    assert batched.loss.dtype is alone.loss.dtype is torch.float64
    assert torch.equal(batched.loss, alone.loss)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_rowwise
def test_company_on_cuda(case):
    """Two callers in one batch on a CUDA device get the CPU's loss and gradient, and so one alone."""
    cuda = torch.device("cuda")
    job = job_of(case.config, case.inputs(4))
    (expected,) = results(job)

    for found in (*results(job, job, device=cuda), *results(replace(job, rows=None), device=cuda)):
        assert_all_close(found.losses, expected.losses)
        assert_all_close(found.grads, expected.grads)
