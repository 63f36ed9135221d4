"""What only a CUDA device shows of lossserver.staging: right values, and copies that overlap."""

import contextlib
from collections import deque

import pytest
import torch

from lossserver.compute import begin, compute
from lossserver.staging import staging
from tests.losses.calls import CPU, assert_all_close, floats, job_of
from tests.server.kernels import AtOnce

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def way():
    """The way to the first CUDA device."""
    return staging(torch.device("cuda", 0))


def focal(rows, dtype=torch.float32, **options):
    """A job of focal loss."""
    inputs = {
        "pred": torch.randn(rows, 80, dtype=dtype),
        "target": torch.randint(0, 81, (rows,)),
        "weight": torch.rand(rows),
    }
    return job_of({"type": "FocalLoss"}, floats(inputs, dtype), **options)


@contextlib.contextmanager
def no_waiting():
    """Raise where torch would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kernels", [None, AtOnce()], ids=["eager", "kernel"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_batch_is_as_on_the_cpu(way, dtype, kernels):
    """In every dtype, reduced and not, many batches one after another, each begun without waiting."""
    batches = [
        [focal(rows, dtype), focal(7, dtype), *more]
        for rows in (3, 500, 64, 20_000, 1)
        for more in ([], [focal(rows, dtype, reduction_override="none")])
    ]
    for batch in batches:
        begin(batch, way, kernels).finish()  # torch loads its kernels, which waits
    with no_waiting():
        pending = [begin(batch, way, kernels) for batch in batches]
    for batch, one in zip(batches, pending, strict=True):
        for found, expected in zip(one.finish(), compute(batch, CPU), strict=True):
            assert_all_close(found.losses, expected.losses)
            assert_all_close(found.grads, expected.grads)


def test_memory_is_pinned(way):
    """A slab is pinned from its first byte to its last, also where it does not begin the memory."""
    slabs = [way._slabs.take(1000) for _ in range(3)]

    assert all(slab.memory.is_pinned() and slab.memory[-1:].is_pinned() for slab in slabs)


def test_memory_comes_back(way):
    """A thousand batches two at a time leave no more device and pinned memory taken than ten do."""

    def run(count):
        pending = deque()
        for _ in range(count):
            pending.append(begin([focal(1000), focal(10)], way))
            if len(pending) > 1:
                pending.popleft().finish()
        pending.popleft().finish()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), way._slabs.free

    run(3)

    assert run(10) == run(1000)


def test_copies_and_computation_overlap(way):
    """While one batch computes for long, the inputs of the next arrive."""
    jobs = [focal(20_000)]
    begin(jobs, way).finish()
    torch.cuda._sleep(2_000_000_000)  # cycles on the thread's own stream: a second of computing
    computed = torch.cuda.Event()
    computed.record()
    pending = begin(jobs, way)
    way._streams.inward.synchronize()

    assert not computed.query()
    assert pending.finish()[0].losses["loss"].isfinite()
    assert computed.query()


def test_no_room_is_no_error():
    """What does not fit into pinned memory is computed all the same."""
    device = torch.device("cuda", 0)
    narrow = staging(device, pinned=1 << 12)
    jobs = [focal(1000), focal(10)]

    for found, expected in zip(begin(jobs, narrow).finish(), compute(jobs, CPU), strict=True):
        assert_all_close(found.grads, expected.grads)
