"""lossserver.worker, of a device that copies and computes at once: two batches in its hands at a time."""

import asyncio
import itertools

import pytest
import torch

from lossserver import isolate
from lossserver.compute import compute
from lossserver.device import CPU
from lossserver.isolate import Isolation
from lossserver.onloop import SMALL
from lossserver.pool import Pool
from lossserver.staging import Staging
from tests.server.jobs import job_of
from tests.server.pools import outcomes

#: What runs there is up to the test.
FAR = torch.device("meta")

LOST = "CUDA error: device-side assert triggered"


class Overlapping(Staging):
    """A way to the device that notes what is begun and what is finished, by the first loss of each."""

    overlaps = True

    def __init__(self, log, fails):
        super().__init__(CPU)
        self._log = log
        self._fails = fails

    def bring_out(self, found):
        """The tensors as they are, once they are asked for."""
        number = round(float(found[0][0]))
        self._log.append(f"begin {number}")

        def landing():
            self._log.append(f"finish {number}")
            if number in self._fails:
                raise RuntimeError(self._fails[number])
            return list(found)

        return landing


@pytest.fixture
def run(monkeypatch):
    """Gives what becomes of jobs of these values, the device's log, and the devices that were lost."""

    def run_(*given, fails=None, lost=False, **options):
        log, gone = [], []

        def again(batch, device, kernels=None):
            log.append(f"again on {device.type}: {len(batch)}")
            if lost and device == FAR:
                raise RuntimeError(LOST)
            return compute(batch, CPU, kernels)

        def way(device):
            return Overlapping(log, fails or {}) if device == FAR else Staging(device)

        monkeypatch.setattr("lossserver.worker.staging", way)
        monkeypatch.setattr("lossserver.worker.settle_in", lambda *_: None)
        monkeypatch.setattr(isolate, "compute", again)
        monkeypatch.setattr(isolate, "answers", lambda _: True)

        async def scenario():
            """The jobs, put together."""
            jobs = [job_of(value, elements=SMALL + 1) for value in given]
            return await outcomes(*jobs, devices=[FAR], on_lost=gone.append, **options)

        return asyncio.run(scenario()), log, gone

    return run_


def values(done):
    """The losses of what was computed, and the names of errors."""
    return [
        type(one).__name__
        if isinstance(one, Exception)
        else round(float(one.computed.losses["loss"]))
        for one in done
    ]


def test_each_batch_is_begun_before_the_one_before_is_finished(run):
    """Two at a time and no more, in order; the last is finished at once, as nothing waits."""
    done, log, _ = run(0, 1, 2, 3, max_jobs=1)

    assert values(done) == [0, 1, 2, 3]
    assert log == [
        *("begin 0", "begin 1", "finish 0", "begin 2", "finish 1"),
        *("begin 3", "finish 2", "finish 3"),
    ]


def test_a_job_that_raises_when_it_is_begun(run):
    """The batch before is finished first; then the guilty job stands alone, and its company has results."""
    done, log, _ = run(0, 1, 200, 3, 4, 5, max_jobs=2)

    assert values(done) == [0, 1, "ArithmeticError", 3, 4, 5]
    assert log == [
        *("begin 0", "finish 0"),
        *("again on meta: 2", "again on meta: 1", "again on meta: 1"),
        *("begin 4", "finish 4"),
    ]


def test_a_batch_that_fails_on_its_way(run):
    """What the device says only when it is waited for is put right as well, and is nobody else's."""
    done, log, lost = run(0, 1, 2, fails={1: "CUDA error: out of memory"}, max_jobs=1)

    assert values(done) == [0, 1, 2]
    assert log[-4:] == ["begin 2", "finish 1", "again on meta: 1", "finish 2"]
    assert lost == []


def test_a_device_that_is_lost_with_two_batches_in_its_hands(run):
    """Both are computed on the CPU, each by itself, and so is what waited."""
    fails = dict.fromkeys(range(6), LOST)
    done, log, lost = run(0, 1, 2, 3, 4, 5, fails=fails, lost=True, max_jobs=2)

    assert values(done) == [0, 1, 2, 3, 4, 5]
    assert log[:4] == ["begin 0", "begin 2", "finish 0", "again on meta: 2"]
    assert log[4:] == ["again on cpu: 2"] * 3
    assert lost == [FAR]


@pytest.mark.parametrize("name", ["next", "weed"])
def test_a_worker_that_dies_between_two_batches(run, monkeypatch, name):
    """What it had begun, and what it had just been given, is computed on the CPU."""
    where = Pool if name == "next" else Isolation
    real, times = getattr(where, name), itertools.count()

    def instead(*args, **options):
        # Of `next` the second is for a batch beside the first; of `weed` the second is of that batch.
        if next(times) == 1:
            raise AssertionError("ours")
        return real(*args, **options)

    monkeypatch.setattr(where, name, instead)
    done, log, _ = run(0, 1, 2, max_jobs=1)

    assert values(done) == [0, 1, 2]
    assert log[0] == "begin 0"
    assert "again on cpu: 1" in log
