"""lossserver.worker and the pool around it: a worker or a device that dies leaves nobody unanswered."""

import asyncio
from collections.abc import Callable

import pytest
import torch

from lossserver import isolate
from lossserver.compute import compute
from lossserver.device import CPU
from lossserver.metrics import Metrics
from lossserver.onloop import SMALL
from lossserver.pool import REPLACED
from tests.server.jobs import job_of
from tests.server.pools import outcomes, pool_of

either = pytest.mark.parametrize("elements", [4, SMALL + 1], ids=["loop", "thread"])

#: Two that this machine has: torch computes nothing on "meta", so what runs there is up to the test.
FAR = torch.device("meta")

LOST = "CUDA error: device-side assert triggered"


@pytest.fixture
def computing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, int]]]:
    """Lets a test decide what a device does with a batch; gives the list of all that were tried."""

    def install(act: Callable[[torch.device, int], None]) -> list[tuple[str, int]]:
        tried: list[tuple[str, int]] = []

        def instead(batch, device, kernels=None):
            tried.append((device.type, len(batch)))
            act(device, len(tried))
            return compute(batch, CPU, kernels)

        monkeypatch.setattr(isolate, "compute", instead)
        # Whether a device answers is asked of a real one.
        monkeypatch.setattr(isolate, "answers", lambda _: True)
        monkeypatch.setattr("lossserver.worker.settle_in", lambda *_: None)
        return tried

    return install


def raises(error, *, on="meta", first=1000):
    """What a device does that raises so for the first few batches of all."""

    def act(device, number):
        if device.type == on and number <= first:
            raise error()

    return act


def run(*, elements=SMALL + 1, count=6, **given):
    """What becomes of that many jobs, and the devices that were lost."""
    lost: list[torch.device] = []

    async def scenario():
        jobs = [job_of(i, elements=elements) for i in range(count)]
        return await outcomes(*jobs, on_lost=lost.append, **given)

    async def whole():
        done = await scenario()
        await asyncio.sleep(0)
        return done

    return asyncio.run(whole()), lost


def values(done):
    """The losses of what was computed."""
    return [float(result.computed.losses["loss"]) for result in done]


def test_jobs_of_a_lost_device_are_computed_on_the_cpu(computing):
    """Those of the batch in which it was lost and those that waited all have their results."""
    tried = computing(raises(lambda: RuntimeError(LOST)))
    metrics = Metrics()
    done, lost = run(devices=[FAR], max_jobs=2, metrics=metrics)

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert lost == [FAR]
    assert [device for device, _ in tried] == ["meta", "cpu", "cpu", "cpu"]
    restarts = metrics.registry.get_sample_value
    assert restarts("lossserver_device_restarts_total", {"device": "meta"}) == 1


def test_what_waits_goes_to_the_devices_that_are_left(computing):
    """Only the batch in which a device was lost is computed on the CPU; the other device does the rest."""
    other = torch.device("meta", 1)
    tried = computing(raises(lambda: RuntimeError(LOST), first=1))
    done, lost = run(devices=[FAR, other], max_jobs=1)

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert len(lost) == 1
    assert [device for device, _ in tried].count("cpu") == 1


@either
def test_a_lost_device_of_the_server_itself(computing, elements):
    """On the event loop, too, a lost device is noted and its jobs are computed again."""
    computing(raises(lambda: RuntimeError(LOST), on="cpu", first=1))
    done, lost = run(elements=elements)

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert lost == [CPU]


@either
def test_a_worker_that_dies_is_replaced(computing, elements):
    """What is no error of a job ends the worker; the next one computes its jobs, and no device is lost."""
    metrics = Metrics()
    computing(raises(lambda: SystemExit("no job's fault"), on="cpu", first=1))
    done, lost = run(elements=elements, metrics=metrics)

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert lost == []
    restarts = metrics.registry.get_sample_value
    assert restarts("lossserver_device_restarts_total", {"device": "cpu"}) == 1


@either
def test_jobs_that_kill_every_worker_are_told_so(computing, elements):
    """Who has died of a job twice does not try again: its caller gets an error, and the server goes on."""
    computing(raises(lambda: SystemExit("whoever computes it"), on="cpu"))
    done, _ = run(elements=elements)

    assert all(isinstance(one, RuntimeError) for one in done)


def test_a_device_that_answers_no_more_is_lost(computing, monkeypatch):
    """An error of unknown words, after which the device does not answer, is a lost device."""
    computing(raises(lambda: RuntimeError("something new"), first=1))
    monkeypatch.setattr(isolate, "answers", lambda device: device == CPU)
    done, lost = run(devices=[FAR])

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert lost == [FAR]


def test_memory_is_given_back_before_the_halves_are_tried(computing, monkeypatch):
    """After out of memory, what the allocator keeps is freed, and two halves do what one batch could not."""
    freed = []
    monkeypatch.setattr(isolate, "free", freed.append)
    tried = computing(raises(lambda: torch.OutOfMemoryError("CUDA out of memory."), first=1))
    done, lost = run(devices=[FAR])

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert tried == [("meta", 6), ("meta", 3), ("meta", 3)]
    assert (freed, lost) == ([FAR], [])


@pytest.mark.parametrize("deaths", [1, 1000], ids=["once", "always"])
def test_a_worker_that_dies_with_empty_hands(computing, monkeypatch, deaths):
    """Another takes its place, as something may wait for it; but not for ever."""
    computing(raises(lambda: AssertionError, first=0))
    died = []

    def settle_in(*_):
        if len(died) < deaths:
            died.append(1)
            raise RuntimeError("no thread settles in")

    monkeypatch.setattr("lossserver.worker.settle_in", settle_in)
    lost = []

    async def scenario():
        pool = pool_of(on_lost=lost.append)
        job = job_of(1, elements=SMALL + 1)
        pool.put(job)
        pool.start()
        pool.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return job.future.done()

    assert asyncio.run(scenario()) == (deaths == 1)
    assert len(died) == min(deaths, REPLACED)
    assert set(lost) == {CPU}
