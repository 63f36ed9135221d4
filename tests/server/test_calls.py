"""lossserver.calls: what a stream's calls cost that are refused at the door."""

import asyncio

from lossserver.admit import Admission, Limits
from lossserver.calls import Calls
from lossserver.front import Front
from lossserver.metrics import Metrics
from lossserver.outbox import Outbox
from lossserver.regions import Regions
from losswire.status import from_status
from losswire.streaming import Called, read_told
from tests.server.pools import pool_of


async def refused(count: int) -> tuple[bytes, int, int, int]:
    """What is written for calls that would wait too long; and who is counted before and after."""
    limits = Limits()
    front = Front(pool_of(), Admission(limits), limits, Metrics())
    for _ in range(40):
        await front.door.enter("ours")
    front.door._pace, front.door._calls = 1.0, 40  # a second an answer
    written: asyncio.Queue[bytes] = asyncio.Queue()
    outbox = Outbox(written.put, lambda: None)
    calls = Calls(front, "ours", Regions(front.shared), outbox, lambda: None)
    for number in range(count):
        calls.begin(Called(number, 1.0, b"", b""))
    before, inside = calls.count, front.admission.calls
    message = await written.get()
    await asyncio.sleep(0)
    return message, before, inside, calls.count


def test_a_call_that_had_better_not_wait_is_refused_unread():
    """Each is told so by a status of its own, holds no place, and counts until that is written."""
    message, before, inside, after = asyncio.run(refused(3))
    answers, _ = read_told(message)

    assert (before, inside, after) == (3, 0, 0)
    assert [answer.id for answer in answers] == [0, 1, 2]
    assert all(answer.response is None for answer in answers)
    assert "in time" in str(from_status("RESOURCE_EXHAUSTED", "", answers[0].status))
