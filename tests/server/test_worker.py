"""lossserver.worker: every job ends in its own result or its own error, whoever it shared a batch with."""

import asyncio
import time
from dataclasses import dataclass, replace

import pytest
import torch

from lossserver.batch import BatchLimits
from lossserver.job import Job
from lossserver.losses.loss import Call
from lossserver.losses.rows import Elementwise
from lossserver.worker import SMALL, Worker
from losswire.errors import DeadlineError

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Touchy(Elementwise):
    """A loss that raises for a whole batch if a row of it is above 100."""

    def formula(self, pred, target):
        if bool((pred > 100).any()):
            raise ArithmeticError("above 100")
        return pred - target


def job_of(value, *, elements=4, deadline=None):
    """A job of that many elements, all of them `value`."""
    pred = torch.full((elements,), float(value))
    call = Call(inputs={"pred": pred, "target": torch.zeros(elements)}, wrt=frozenset({"pred"}))
    loss = Touchy()
    rows = loss.rows(call)
    return Job(
        name="Touchy",
        loss=loss,
        call=call,
        rows=rows,
        key=rows.formula,
        elements=elements,
        deadline=deadline,
        arrived=time.monotonic(),
        future=asyncio.get_running_loop().create_future(),
    )


async def outcomes(*jobs, before=lambda *_: None, **limits):
    """What becomes of jobs put together."""
    worker = Worker(CPU, BatchLimits(**limits), asyncio.get_running_loop())
    worker.expect()  # as gRPC says of a second caller at the door; the first would not wait for it
    before(*jobs)
    for job in jobs:
        worker.put(job)
    worker.start()
    done = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    worker.stop()
    return done


@pytest.mark.parametrize("elements", [4, SMALL + 1], ids=["loop", "thread"])
def test_who_waits_together_goes_together(elements):
    """Small jobs on the event loop and large ones on the thread share a batch with their like."""

    async def scenario():
        return await outcomes(*[job_of(i, elements=elements) for i in range(3)])

    results = asyncio.run(scenario())

    assert [float(r.computed.losses["loss"]) for r in results] == [0.0, 1.0, 2.0]
    assert [r.batch for r in results] == [3, 3, 3]


@pytest.mark.parametrize("elements", [4, SMALL + 1], ids=["loop", "thread"])
def test_only_the_guilty_fails(elements):
    """A batch that raises is computed again one by one: the others have their results."""

    async def scenario():
        return await outcomes(*[job_of(v, elements=elements) for v in (1, 200, 3)])

    first, guilty, last = asyncio.run(scenario())

    assert isinstance(guilty, ArithmeticError)
    assert (first.batch, last.batch) == (1, 1)
    assert (float(first.computed.losses["loss"]), float(last.computed.losses["loss"])) == (1, 3)


def test_late_and_abandoned_jobs_cost_nothing():
    """A job past its deadline is told so, one whose caller is gone is dropped; neither is computed."""

    async def scenario():
        jobs = [job_of(1), job_of(2, deadline=time.monotonic() - 1), job_of(3)]
        return await outcomes(*jobs, before=lambda *jobs: jobs[2].future.cancel())

    on_time, late, gone = asyncio.run(scenario())

    assert on_time.batch == 1
    assert isinstance(late, DeadlineError)
    assert isinstance(gone, asyncio.CancelledError)


def test_jobs_of_unequal_keys_stay_apart():
    """What differs in its formula is never computed together."""

    async def scenario():
        jobs = [job_of(1), job_of(2)]
        return await outcomes(jobs[0], replace(jobs[1], key="another"))

    assert [r.batch for r in asyncio.run(scenario())] == [1, 1]


def test_a_worker_that_stops_computes_what_waits():
    """Nobody who was admitted is left without an answer."""

    async def scenario():
        job = job_of(1, elements=SMALL + 1)
        worker = Worker(CPU, BatchLimits(max_wait=0.01), asyncio.get_running_loop())
        worker.start()
        worker.put(job)
        worker.stop()
        return await job.future

    assert asyncio.run(scenario()).batch == 1


def test_company_is_waited_for_if_that_is_wished():
    """With max_wait, jobs that come one after the other within it go together."""

    async def scenario():
        worker = Worker(CPU, BatchLimits(max_wait=0.2), asyncio.get_running_loop())
        first, second = job_of(1), job_of(2)
        worker.put(first)
        await asyncio.sleep(0)
        worker.put(second)
        return await asyncio.gather(first.future, second.future)

    assert [r.batch for r in asyncio.run(scenario())] == [2, 2]


def test_a_full_batch_of_small_jobs_waits_for_nobody():
    """With a long max_wait, the job that fills a batch sends it off."""

    async def scenario():
        jobs = [job_of(1, elements=3), job_of(2, elements=5)]
        return await asyncio.wait_for(outcomes(*jobs, max_wait=50.0, max_elements=8), 30)

    assert [r.batch for r in asyncio.run(scenario())] == [2, 2]
