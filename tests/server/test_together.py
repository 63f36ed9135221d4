"""lossserver.together: everybody gets in company what each gets alone, and nobody notices a neighbour."""

import functools
import math
import random

import pytest
import torch

from lossserver import together
from lossserver.compute import compute
from lossserver.tree import tensors
from tests.losses.calls import CPU, floats, job_of, poisoned, unreduced
from tests.losses.test_rows import ROWWISE, WEIGHTED
from tests.server.kernels import AtOnce

#: Relative to the size of a result.
TOLERANCE = 1e-6

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Callers:
    """Callers of one loss, each with a size, a reduction, a weight and an upstream gradient of its own.

    Parameters:
        case: the loss.
        of_rows: whether some want ℓ itself, and all the gradient of their weight if they may.
    """

    def __init__(self, case, *, of_rows):
        self.case = case
        self.of_rows = of_rows
        self.random = random.Random(str(case))  # noqa: S311  (the same each time)
        self.weighted = case in WEIGHTED
        self.inputs = functools.cache(lambda rows: floats(case.inputs(rows), torch.float32))
        self.shape = functools.cache(
            lambda rows: unreduced(case, self.inputs(rows), wrt=()).loss.shape
        )

    def wishes(self):
        """What one of them wants: rows, a weight, options."""
        rows, options = self.random.randint(1, 6), {}
        shape = self.shape(rows)
        weight = None
        if self.weighted and (self.of_rows or self.random.random() < 0.6):
            wide = self.case.weights == "column" and self.random.random() < 0.3
            weight = torch.rand(shape if wide else self.column(shape))
            if rows > 1:  # upstream has a way of its own for weights that are all 0
                weight[self.random.randrange(rows)] = 0
            weight = weight.to(self.random.choice(DTYPES))
        reductions = ["mean", "sum", None, *(["none"] if self.of_rows else [])]
        if reduction := self.random.choice(reductions):
            options["reduction_override"] = reduction
        if reduction == "mean" and self.random.random() < 0.5:
            options["avg_factor"] = self.random.choice([0.7, 12.0, float("inf")])
        if self.random.random() < 0.5:
            options["grad_output"] = torch.rand(shape if reduction == "none" else ())
        return rows, weight, options

    def column(self, shape):
        """The shape of a weight a row."""
        return shape[:1] if self.case.weights == "vector" else (*shape[:1], *[1] * len(shape[1:]))

    def job(self, wishes, *, sick=False):
        """The job of one of them; a sick one has a NaN."""
        rows, weight, options = wishes
        inputs = self.inputs(rows)
        if sick:
            inputs = poisoned(inputs, rows - 1, torch.nan)
        if weight is not None:
            inputs = inputs | {"weight": weight}
        wrt = ("pred", "weight") if self.of_rows and self.weighted else ("pred",)
        return job_of(self.case.config, inputs, wrt=wrt, **options)


def leaves(computed):
    """What a caller gets, tensor by tensor."""
    return tensors([dict(computed.losses), dict(computed.grads)])


def size_of(own, job):
    """What rounding of a result is measured by: its largest value; of a sum, that of magnitudes.

    Some losses have rows of either sign, whose sum may be far smaller than they are.
    """
    if own.dim():
        finite = own[own.isfinite()]
        return float(finite.abs().max()) if len(finite) else 0.0
    each = job.rows.formula.formula(**job.rows.inputs).abs()
    total = float(job.rows.cotangent.value(each))
    return total if math.isfinite(total) else 0.0


def assert_as_alone(ours, alone, job):
    """Equal up to rounding; None where None, NaN where NaN."""
    assert [g is None for g in ours.grads.values()] == [g is None for g in alone.grads.values()]
    for a, b in zip(leaves(ours), leaves(alone), strict=True):
        one_step = torch.finfo(b.dtype).eps if b.dtype in DTYPES[1:] else 0.0
        tolerance = max(TOLERANCE, one_step) * size_of(b, job)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("kernels", [None, AtOnce()], ids=["eager", "kernel"])
@pytest.mark.parametrize("of_rows", [False, True], ids=["sums", "rows"])
@pytest.mark.parametrize("case", ROWWISE, ids=str)
def test_a_mix_of_callers(case, of_rows, kernels):
    """2 to 50 of them, a NaN among them: as alone, and the neighbours bit for bit as without it."""
    callers = Callers(case, of_rows=of_rows)
    wishes = [callers.wishes() for _ in range(callers.random.randint(2, 50))]
    clean = [callers.job(one) for one in wishes]
    sick = callers.random.randrange(len(wishes))
    mixed = [*clean[:sick], callers.job(wishes[sick], sick=True), *clean[sick + 1 :]]
    assert len({job.key for job in mixed}) == 1
    found, without = compute(mixed, CPU, kernels), compute(clean, CPU, kernels)

    for i, job in enumerate(mixed):
        assert_as_alone(found[i], compute([job], CPU, kernels)[0], job)
        if i != sick:
            for a, b in zip(leaves(found[i]), leaves(without[i]), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


class Raising:
    """Kernels that raise."""

    def __init__(self, error):
        self.error = error
        self.dropped = []

    def find(self, key, recipe, tenant=""):
        """One that raises."""

        def kernel(_):
            raise self.error

        return kernel

    def drop(self, key, error):
        """Note it."""
        self.dropped.append(key)


def one_job():
    """A job of some loss."""
    return job_of({"type": "L1Loss"}, {"pred": torch.rand(3, 4), "target": torch.rand(3, 4)})


def test_a_kernel_that_raises_is_dropped_and_eager_torch_answers():
    """Nobody is told of it."""
    job, kernels = one_job(), Raising(RuntimeError("Run of a kernel gave 1"))
    (found,), (expected,) = compute([job], CPU, kernels), compute([job], CPU)

    assert not found.fused
    assert torch.equal(found.losses["loss"], expected.losses["loss"])
    assert len(kernels.dropped) == 1


def test_memory_that_is_full_inside_a_kernel_is_no_fault_of_it(monkeypatch):
    """It says only that it failed; where eager torch has not enough either, the kernel stays."""
    kernels = Raising(RuntimeError("Run of a kernel gave 1"))

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(together, "_eager", full)
    with pytest.raises(torch.OutOfMemoryError):
        compute([one_job()], CPU, kernels)

    assert kernels.dropped == []


def test_a_scale_beyond_the_dtype_is_infinite():
    """Alone as in company: eager torch gives inf, and so does a kernel."""
    config = {"type": "L1Loss", "loss_weight": 1e300}
    job = job_of(config, {"pred": torch.rand(3, 4), "target": torch.rand(3, 4)})
    alone, company = compute([job], CPU, AtOnce()), compute([job, job], CPU, AtOnce())

    for found in (*alone, *company):
        assert found.grads["pred"].isinf().all()
        assert found.losses["loss"].isinf()


def test_memory_that_does_not_suffice_is_no_fault_of_a_kernel():
    """It is the batch's, which may be split; the kernel stays."""
    kernels = Raising(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError):
        compute([one_job()], CPU, kernels)

    assert kernels.dropped == []
