"""Every loss on a device other than the CPU, without one: far.py says what that cannot see."""

from dataclasses import replace

import pytest
import torch

import lossserver.card  # noqa: F401  (registers every loss)
from lossserver.compute import compute
from lossserver.tree import map_tensors, tensors
from tests.losses.calls import CPU, assert_all_close, job_of
from tests.losses.cases import CASES
from tests.losses.far import DEVICE, far_device
from tests.losses.test_rows import ROWWISE, WEIGHTED, weighing

every_loss = pytest.mark.parametrize("case", CASES, ids=str)
every_rowwise = pytest.mark.parametrize("case", ROWWISE, ids=str)


def agrees(jobs):
    """Hold what jobs give on the device against what they give here; what was read back meanwhile."""
    expected = compute(jobs, CPU)
    with far_device() as reads:
        found = compute(jobs, DEVICE)
    for ours, theirs in zip(found, expected, strict=True):
        for tree in ("losses", "grads", "state"):
            leaves = [tensors(getattr(one, tree)) for one in (ours, theirs)]
            assert all(type(leaf) is torch.Tensor for leaf in leaves[0])
            assert_all_close(*leaves)
    return reads


@every_loss
def test_no_loss_mixes_devices(case):
    """A loss computed alone makes its tensors where its inputs are, with state and upstream gradient."""
    inputs = case.inputs(4)
    job = job_of(case.config, inputs, wrt=case.wrt, **case.options)
    first = compute([job], CPU)[0]
    losses = {name: first.losses[name] for name in first.losses.keys() - job.loss.METRICS}
    upstream = map_tensors(torch.ones_like, losses)
    options = {"state": first.state, "grad_output": upstream} | case.options
    agrees([replace(job, rows=None)])
    agrees([replace(job_of(case.config, inputs, wrt=case.wrt, **options), rows=None)])


@every_rowwise
def test_a_batch_waits_for_its_results_only(case):
    """Of a batch nothing is read back from the device before the losses and gradients are fetched."""
    some, more = case.inputs(3), case.inputs(5)
    if case in WEIGHTED:
        some = weighing(case, some, 0.0, 2.0, 1.0)
    jobs = [
        job_of(case.config, some),
        job_of(case.config, more),
        job_of(case.config, more, reduction_override="none"),
    ]
    assert len({job.key for job in jobs}) == 1

    assert agrees(jobs) == []


@pytest.mark.parametrize(
    "mixed",
    [
        lambda far: far + torch.zeros(3),
        lambda far: far[torch.arange(2)],
        lambda far: torch.cat([far, torch.zeros(1)]),
        lambda far: torch.where(torch.ones(3, dtype=torch.bool), far, 0),
        lambda far: far.new_zeros(3, device="cpu") * far,
    ],
)
def test_the_rehearsal_sees_what_is_mixed(mixed):
    """A tensor made on the CPU that meets one on the device is found out."""
    with far_device(), pytest.raises(AssertionError, match="on the CPU"):
        mixed(torch.ones(3).to(DEVICE))


def test_the_rehearsal_sees_what_is_read_back():
    """Values, counts and shapes that depend on values are noted; NumPy does not reach them."""
    with far_device() as reads:
        far = torch.ones(3).to(DEVICE)
        assert bool(far.sum() > 1)
        assert len(far[far > 0]) == 3
        far.nonzero()
        with pytest.raises(AssertionError, match="NumPy"):
            far.numpy()

    assert reads == ["aten::_local_scalar_dense", "aten::index", "aten::nonzero"]
