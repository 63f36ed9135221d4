"""lossserver.pool: who computes what, together with whom, and that all that is asked is answered."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
import torch

from lossserver import onloop
from lossserver.device import CPU
from lossserver.onloop import SMALL
from lossserver.pace import DOUBT
from losswire.errors import DeadlineError
from tests.conftest import PATIENCE
from tests.server.jobs import COMPUTED, THREADS, Touchy, job_of
from tests.server.pools import outcomes, pool_of

either = pytest.mark.parametrize("elements", [4, SMALL + 1], ids=["loop", "thread"])


@either
def test_who_waits_together_goes_together(elements):
    """Small jobs on the event loop and large ones on the thread share a batch with their like."""

    async def scenario():
        return await outcomes(*[job_of(i, elements=elements) for i in range(3)])

    results = asyncio.run(scenario())

    assert [float(r.computed.losses["loss"]) for r in results] == [0.0, 1.0, 2.0]
    assert [r.batch for r in results] == [3, 3, 3]


def test_jobs_of_unequal_keys_stay_apart():
    """What differs in its formula is never computed together."""

    async def scenario():
        jobs = [job_of(1), job_of(2)]
        return await outcomes(jobs[0], replace(jobs[1], key="another"))

    assert [r.batch for r in asyncio.run(scenario())] == [1, 1]


@either
def test_late_and_abandoned_jobs_cost_nothing(elements):
    """A job past its deadline is told so, one whose caller is gone is dropped; neither is computed."""
    COMPUTED.clear()

    async def scenario():
        late = job_of(2, elements=elements, deadline=time.monotonic() - 1)
        jobs = [job_of(1, elements=elements), late, job_of(3, elements=elements)]
        return await outcomes(*jobs, before=lambda *jobs: jobs[2].future.cancel())

    on_time, late, gone = asyncio.run(scenario())

    assert on_time.batch == 1
    assert isinstance(late, DeadlineError)
    assert isinstance(gone, asyncio.CancelledError)
    assert set(COMPUTED) == {1.0}


@either
def test_a_job_that_cannot_be_in_time_is_told_so_at_once(elements):
    """Once a kind of job is known to take long, one with too little time left is not computed."""

    async def scenario():
        pool = pool_of()
        pool.start()
        early = job_of(1, elements=elements)
        for _ in range(20):
            pool._pace.learn(early.pace, elements, 5.0)
        late = job_of(2, elements=elements, deadline=time.monotonic() + 1.0)
        for job in (late, early):
            pool.put(job)
        done = await asyncio.gather(early.future, late.future, return_exceptions=True)
        pool.stop()
        return done

    COMPUTED.clear()
    early, late = asyncio.run(scenario())

    assert early.batch == 1
    assert "the deadline must leave the 5.0" in str(late)
    assert set(COMPUTED) == {1.0}


def test_what_refuses_everybody_is_doubted():
    """After some refusals in a row one is computed, or a device that was slow once would be so for ever."""

    async def scenario():
        pool = pool_of()
        pool.start()
        for _ in range(20):
            pool._pace.learn(job_of(1).pace, 4, 5.0)
        jobs = [job_of(1, deadline=time.monotonic() + 1.0) for _ in range(20)]
        for job in jobs:
            pool.put(job)
        done = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        pool.stop()
        return done

    done = asyncio.run(scenario())

    assert sum(isinstance(one, DeadlineError) for one in done) == DOUBT


def test_a_job_that_was_dropped_is_not_computed():
    """A call that is cancelled while it waits leaves the queue."""
    COMPUTED.clear()

    async def scenario():
        pool = pool_of()
        jobs = [job_of(value, elements=SMALL + 1) for value in (1, 2)]
        for job in jobs:
            pool.put(job)
        jobs[0].future.cancel()
        waited = pool.drop(jobs[0]), pool.drop(jobs[0])
        left = pool.waiting
        pool.start()
        await jobs[1].future
        pool.stop()
        return waited, left

    assert asyncio.run(scenario()) == ((True, False), 1)
    assert set(COMPUTED) == {2.0}


def test_a_pool_that_stops_computes_what_waits():
    """Nobody who was admitted is left without an answer."""

    async def scenario():
        job = job_of(1, elements=SMALL + 1)
        pool = pool_of(max_wait=0.01)
        pool.start()
        pool.put(job)
        pool.stop()
        return await job.future

    assert asyncio.run(scenario()).batch == 1


def test_company_is_waited_for_if_that_is_wished():
    """With max_wait, jobs that come one after the other within it go together."""

    async def scenario():
        pool = pool_of(max_wait=0.2)
        first, second = job_of(1), job_of(2)
        pool.put(first)
        await asyncio.sleep(0)
        pool.put(second)
        return await asyncio.gather(first.future, second.future)

    assert [r.batch for r in asyncio.run(scenario())] == [2, 2]


def test_a_full_batch_of_small_jobs_waits_for_nobody():
    """With a long max_wait, the job that fills a batch sends it off."""

    async def scenario():
        jobs = [job_of(1, elements=3), job_of(2, elements=5)]
        return await asyncio.wait_for(outcomes(*jobs, max_wait=50.0, max_elements=8), 30)

    assert [r.batch for r in asyncio.run(scenario())] == [2, 2]


def test_when_all_are_back_nobody_is_waited_for(monkeypatch):
    """Three who went together go as soon as three wait again, not after a while without news."""

    async def scenario():
        pool = pool_of()
        pool.start()
        pool.expect()  # so that the first waits for others
        before = [job_of(value) for value in range(3)]
        for job in before:
            pool.put(job)
        pool.arrived()
        await asyncio.gather(*(job.future for job in before))
        monkeypatch.setattr(onloop, "QUIET", 1000.0)
        after = [job_of(value) for value in range(3)]
        for job in after:
            pool.put(job)
            await asyncio.sleep(0)
        done = await asyncio.wait_for(asyncio.gather(*(job.future for job in after)), PATIENCE)
        pool.stop()
        return [job.future.result().batch for job in before], [one.batch for one in done]

    monkeypatch.setattr(onloop, "BUSY", 1000.0)

    assert asyncio.run(scenario()) == ([3, 3, 3], [3, 3, 3])


def test_two_devices_share_what_waits():
    """While one device is busy, the other takes the next batch; each job is computed once."""
    COMPUTED.clear()
    size = SMALL + 1

    async def scenario():
        jobs = [replace(job_of(value, elements=size), key=value) for value in range(40)]
        return await outcomes(*jobs, devices=[CPU, CPU])

    results = asyncio.run(scenario())

    assert [float(r.computed.losses["loss"]) for r in results] == list(range(40))
    assert len(COMPUTED) == 40 * size


@pytest.mark.parametrize(
    ("seconds", "elements", "thread"),
    [
        (0.0001, 4, "MainThread"),
        (1.0, 4, "worker-cpu"),
        (None, 4, "worker-cpu"),
        (0.0001, SMALL + 1, "worker-cpu"),
    ],
    ids=["brief", "long", "unknown", "large"],
)
def test_a_job_computed_alone_is_the_loop_s_if_it_is_known_to_be_brief(seconds, elements, thread):
    """A few elements may ask for much work, so what was not seen to be brief goes to the thread."""
    THREADS.clear()

    async def scenario():
        pool = pool_of()
        job = job_of(1, elements=elements, rows=None, key=object())
        for _ in range(5 if seconds else 0):
            pool._pace.learn(job.pace, elements, seconds)
        pool.start()
        pool.put(job)
        await job.future
        pool.stop()

    asyncio.run(scenario())

    assert [thread] == THREADS


def test_a_worker_computes_with_the_threads_it_was_given(monkeypatch):
    """The event loop has one, and those of another thread are not its last word."""
    before, seen = torch.get_num_threads(), []

    def formula(_, pred, target):
        # What asks torch first in a new thread is an operation that may be large enough for several.
        torch.ones(1 << 17).exp()
        seen.append(torch.get_num_threads())
        return pred - target

    async def scenario():
        torch.set_num_threads(3)
        pool = pool_of()
        pool.start()
        here = torch.get_num_threads()
        job = job_of(1, elements=SMALL + 1)
        pool.put(job)
        await job.future
        pool.stop()
        return here

    monkeypatch.setattr(Touchy, "formula", formula)
    try:
        here = asyncio.run(scenario())
    finally:
        torch.set_num_threads(before)

    assert (here, set(seen)) == (1, {3})


def test_a_pool_that_stops_does_not_wait_for_ever(monkeypatch):
    """A device that hangs ends with the process; one that goes on is waited for."""
    go = threading.Event()
    monkeypatch.setattr(
        Touchy, "formula", lambda _, pred, target: go.wait(PATIENCE) and pred - target
    )

    async def scenario():
        pool = pool_of()
        pool.start()
        job = job_of(1, elements=SMALL + 1)
        pool.put(job)
        ended = [pool.stop(0.01)]
        go.set()
        ended.append(pool.stop(PATIENCE))
        await job.future
        return ended

    assert asyncio.run(scenario()) == [False, True]
