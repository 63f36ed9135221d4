"""lossserver.slices: what becomes of a job's slices is what becomes of the job."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch

from lossserver.losses.cross_entropy import CrossEntropyLoss
from lossserver.losses.focal import FocalLoss
from lossserver.losses.loss import Call
from lossserver.losses.regression import L1Loss
from lossserver.slices import Slices, Total, can_be_cut, in_order
from tests.server.jobs import Touchy, job_of
from tests.server.pools import pool_of

N, C = 50, 8
PRED = torch.linspace(-2, 2, N * C, dtype=torch.float64).view(N, C)
CLASSES = torch.arange(N) % C
PER_ROW = torch.linspace(0, 1, N, dtype=torch.float64)
PER_ELEMENT = torch.linspace(0, 1, N * C, dtype=torch.float64).view(N, C)


async def sliced(slices, pool):
    """What becomes of each slice of a job that is all there."""

    async def cut():
        """Each of them."""
        for start, stop in slices.ranges():
            yield slices.cut(start, stop)

    async with aclosing(in_order(cut(), pool)) as found:
        async for done in found:
            yield done


def job_for(loss, **given):
    """The job of a call of pred and class indices, or what is given in their place."""
    options = {
        name: given.pop(name) for name in ("reduction_override", "avg_factor") if name in given
    }
    upstream = {"loss": given.pop("upstream")} if "upstream" in given else {}
    wrt = frozenset(given.pop("wrt", {"pred"}))
    inputs = {"pred": PRED, "target": CLASSES} | given
    call = Call(inputs=inputs, wrt=wrt, grad_output=upstream, **options)
    rows = loss.rows(call)
    return replace(job_of(1.0), rows=rows, loss=loss, call=call, elements=PRED.numel(), key=loss)


async def together(job):
    """What became of it whole, and in slices of 7 rows: losses, and gradients by name."""
    pool = pool_of()
    pool.start()
    try:
        pool.put(job)
        whole = (await job.future).computed
        total, losses, grads = Total(), [], {name: [] for name in job.call.wrt}
        async with aclosing(sliced(Slices(job, 7 * C * 8), pool)) as found:
            async for _, _, result in found:
                total.add(result)
                losses.append(result.computed.losses["loss"])
                for name, grad in result.computed.grads.items():
                    grads[name].append(grad)
        loss = total.result().computed.losses.get("loss")
        return whole, torch.cat(losses) if loss is None else loss, grads, len(losses)
    finally:
        pool.stop()


CASES = {
    "mean": lambda: job_for(CrossEntropyLoss()),
    "sum": lambda: job_for(FocalLoss(), reduction_override="sum"),
    "none": lambda: job_for(FocalLoss(), reduction_override="none"),
    "avg_factor": lambda: job_for(CrossEntropyLoss(avg_non_ignore=True), avg_factor=3.0),
    "ignored": lambda: job_for(CrossEntropyLoss(ignore_index=2, avg_non_ignore=True)),
    "weight a row": lambda: job_for(FocalLoss(), weight=PER_ROW),
    "weight an element": lambda: job_for(FocalLoss(), weight=PER_ELEMENT),
    "weight a column": lambda: job_for(L1Loss(), target=PRED * 2, weight=PER_ELEMENT[0]),
    "weight for all": lambda: job_for(L1Loss(), target=PRED * 2, weight=PER_ELEMENT[:1]),
    "upstream": lambda: job_for(CrossEntropyLoss(), upstream=torch.tensor(0.5)),
    "upstream a row": lambda: job_for(
        CrossEntropyLoss(), reduction_override="none", upstream=PER_ROW
    ),
    "two gradients": lambda: job_for(L1Loss(), target=PRED * 2, wrt={"pred", "target"}),
    "no gradient": lambda: job_for(L1Loss(), target=PRED * 2, wrt=()),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_slices_add_up(make):
    """The loss is the same, and the gradients one after another are the whole gradient."""

    async def run():
        job = make()
        return can_be_cut(job), *await together(job)

    cut, whole, loss, grads, count = asyncio.run(run())

    assert (cut, count) == (True, 8)
    torch.testing.assert_close(loss, whole.losses["loss"])
    for name, grad in whole.grads.items():
        torch.testing.assert_close(torch.cat(grads[name]), grad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: job_for(FocalLoss(), weight=PER_ROW, wrt={"weight"}),
        lambda: job_for(L1Loss(), target=PRED * 2, weight=torch.ones(3, N, C)),
        lambda: job_for(L1Loss(), pred=PRED[:1], target=PRED[1:2], weight=torch.ones(4, C)),
    ],
    ids=["gradient of a weight", "weight with more dimensions", "more weights than rows"],
)
def test_what_does_not_add_up_is_not_cut(make):
    """A gradient that sums over all rows, or a loss with other rows than the inputs have."""

    async def run():
        return can_be_cut(make())

    assert not asyncio.run(run())


def touchy(values):
    """A job whose rows raise what they say."""
    pred = torch.tensor(values)
    call = Call(inputs={"pred": pred, "target": torch.zeros(len(pred))}, wrt=frozenset({"pred"}))
    return replace(job_of(1.0), rows=Touchy().rows(call), call=call, elements=1 << 20)


def test_the_first_failure_is_the_call_s(caplog):
    """Slices before it are given, none after it, and nobody logs what nobody waits for."""

    async def run():
        pool = pool_of()
        pool.start()
        slices = sliced(Slices(touchy([1.0, 2.0, 200.0, 200.0, 5.0]), 4), pool)
        given = [(await anext(slices))[:2] for _ in range(2)]
        try:
            with pytest.raises(ArithmeticError, match="above 100"):
                await anext(slices)
        finally:
            pool.stop()
        return given, pool.waiting

    given, waiting = asyncio.run(run())

    assert (given, waiting) == ([(0, 1), (1, 2)], 0)
    assert "never retrieved" not in caplog.text


def test_who_leaves_takes_the_rest_along():
    """A caller that stops reading leaves nothing in the pool."""

    async def run():
        pool = pool_of()  # not started: nothing is computed
        slices = sliced(Slices(touchy([1.0] * 100), 4 * 10), pool)
        first = asyncio.ensure_future(anext(slices))
        for _ in range(10):
            await asyncio.sleep(0)
        waiting = pool.waiting
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return waiting, pool.waiting

    assert asyncio.run(run()) == (2, 0)


def test_slices_are_cut_no_faster_than_they_are_taken():
    """So that what waits to be sent is bounded."""

    async def run():
        pool, cut = pool_of(), 0
        pool.start()
        slices = Slices(touchy([1.0] * 1000), 4)

        async def counted():
            nonlocal cut
            for start, stop in slices.ranges():
                cut += 1
                yield slices.cut(start, stop)

        try:
            async with aclosing(in_order(counted(), pool)) as found:
                await anext(found)
                for _ in range(100):
                    await asyncio.sleep(0)
                return cut
        finally:
            pool.stop()

    assert asyncio.run(run()) <= 6
