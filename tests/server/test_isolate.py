"""lossserver.isolate: whoever shares a batch, each job ends in its own result or its own error."""

import asyncio
import re

import pytest

from lossserver.metrics import Metrics
from lossserver.onloop import SMALL
from losswire.errors import OutOfMemoryError
from tests.server.jobs import RAISES, job_of
from tests.server.pools import outcomes

either = pytest.mark.parametrize("elements", [4, SMALL + 1], ids=["loop", "thread"])


def among(guilty, *, elements, count=20, **fields):
    """What becomes of that many jobs, those at the places in `guilty` of these values."""

    async def scenario():
        values = [guilty.get(i, i) for i in range(count)]
        return await outcomes(*[job_of(v, elements=elements, **fields) for v in values])

    return asyncio.run(scenario())


@either
@pytest.mark.parametrize("places", [[0], [7], [19], [3, 4], [0, 9, 19], range(20)])
@pytest.mark.parametrize("value", RAISES)
def test_only_the_guilty_fail(value, places, elements):
    """Wherever they stand and whatever they raise, all others have the right result."""
    done = among(dict.fromkeys(places, value), elements=elements)

    failed = [i for i, outcome in enumerate(done) if isinstance(outcome, Exception)]
    assert failed == list(places)
    for i in set(range(20)) - set(places):
        assert float(done[i].computed.losses["loss"]) == i


@either
def test_the_guilty_has_its_own_error(elements):
    """Each of several is told what it raised itself."""
    done = among({2: 200, 5: 500, 8: 300}, elements=elements)

    assert isinstance(done[2], ArithmeticError)
    assert isinstance(done[5].__cause__, StopIteration)
    assert isinstance(done[8].__cause__, SystemExit)


@pytest.mark.parametrize(
    ("value", "wanted"), [(400, 2 << 30), (600, 12345)], ids=["said", "predicted"]
)
@either
def test_out_of_memory_says_how_much_was_wanted(value, wanted, elements):
    """The bytes are torch's if it says them, else those that were predicted for the job."""
    (lone,) = among({0: value}, elements=elements, count=1, bytes=12345)

    assert isinstance(lone, OutOfMemoryError)
    assert re.search(rf"given {wanted} bytes wanted$", str(lone))


def test_splits_and_guilty_jobs_are_counted():
    """One guilty job among eight makes three batches be split."""
    metrics = Metrics()

    async def scenario():
        jobs = [job_of(200 if i == 5 else i, elements=SMALL + 1) for i in range(8)]
        return await outcomes(*jobs, metrics=metrics)

    asyncio.run(scenario())

    assert metrics.registry.get_sample_value("lossserver_splits_total") == 3
    assert metrics.registry.get_sample_value("lossserver_poisoned_total") == 1
