"""lossserver.calls: what a stream's calls take up, alone or several as one, and that nothing of it stays."""

import asyncio

import pytest
import torch

from lossclient.call import encode_call
from lossclient.reply import decode_reply
from lossclient.torch_bytes import to_bytes, to_torch
from lossserver.admit import Admission, Limits
from lossserver.calls import Calls
from lossserver.front import Front
from lossserver.metrics import Metrics
from lossserver.outbox import Outbox
from lossserver.regions import Regions
from lossserver.tree import map_tensors
from lossserver.turns import turns
from losswire import frame, lists, saying
from losswire.errors import MessageError
from losswire.frame import Parts
from losswire.saying import call as written_call
from losswire.status import from_status
from losswire.streaming import Called, each, read_asked, read_told
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb
from tests.conftest import PATIENCE
from tests.server.pools import pool_of


async def refused(count: int) -> tuple[list[Buffer], int, int, int]:
    """What is written for calls that would wait too long; and who is counted before and after."""
    limits = Limits()
    front = Front(pool_of(), Admission(limits), limits, Metrics())
    for _ in range(40):
        await front.door.enter("ours")
    front.door._pace, front.door._calls = 1.0, 40  # a second an answer
    written: asyncio.Queue[list[Buffer]] = asyncio.Queue()
    outbox = Outbox(written.put, lambda: None)
    calls = Calls(front, "ours", Regions(front.shared), outbox, lambda: None)
    for number in range(count):
        calls.begin([Called(number, 1.0, b"", b"")])
    before, inside = calls.count, front.admission.calls
    message = await written.get()
    await asyncio.sleep(0)
    return message, before, inside, calls.count


def test_a_call_that_had_better_not_wait_is_refused_unread():
    """Each is told so by a status of its own, holds no place, and counts until that is written."""
    message, before, inside, after = asyncio.run(refused(3))
    answers = read_told(b"".join(message)).answers

    assert (before, inside, after) == (3, 0, 0)
    assert [answer.id for answer in answers] == [0, 1, 2]
    assert all(answer.response is None for answer in answers)
    assert "in time" in str(from_status("RESOURCE_EXHAUSTED", "", answers[0].status))


#: Seconds that nobody waits here: what waits so long for company waits for ever.
FOR_EVER = 50.0

FOCAL = {"type": "FocalLoss"}


def parts_of(labels):
    """Calls that are alike but for their labels."""
    logits = torch.arange(6.0).view(2, 3) / 3
    given = [
        {"pred": logits * (i + 1), "target": torch.tensor(own)} for i, own in enumerate(labels)
    ]
    return [encode_call(FOCAL, map_tensors(to_bytes, one)) for one in given]


def calls_of(labels, timeout=None):
    """A message of such calls, each by itself."""
    written = [written_call(number, timeout, one) for number, one in enumerate(parts_of(labels))]
    return b"".join(b"".join(one) for one in written)


def list_of(labels, timeout=None, first=0):
    """The same as a list."""
    return b"".join(saying.calls(first, timeout, parts_of(labels)))


class Ours:
    """The calls of a stream of this process.

    Parameters:
        limits: of the server.
        max_wait: seconds that jobs wait for company.
    """

    def __init__(self, limits=None, max_wait=0.0):
        limits = limits or Limits()
        self.metrics = Metrics()
        self.pool = pool_of(max_wait=max_wait, metrics=self.metrics)
        self.front = Front(self.pool, Admission(limits), limits, self.metrics)
        self.changed = asyncio.Event()
        self.written = []
        self.outbox = Outbox(self._write, lambda: None)
        self.calls = Calls(
            self.front, "ours", Regions(self.front.shared), self.outbox, self.changed.set
        )

    async def __aenter__(self):
        self.pool.start()
        return self

    async def __aexit__(self, *_):
        self.pool.stop()

    async def _write(self, written):
        self.written.append(b"".join(written))

    def begin(self, message):
        """Begin with the calls of a message."""
        for some in turns(read_asked(message)):
            self.calls.begin(some)

    async def settled(self):
        """Wait until no call is left; by id, whether each was answered with a result."""
        async with asyncio.timeout(PATIENCE):
            while self.calls.count:
                self.changed.clear()
                await self.changed.wait()
        await asyncio.sleep(0)
        told = [one for message in self.written for one in each(read_told(message).answers)]
        assert len({one.id for one in told}) == len(told)
        return {one.id: one.response is not None for one in told}

    def answers(self):
        """The results that were written, in order."""
        told = [one for message in self.written for one in each(read_told(message).answers)]
        parts = [
            one.response if isinstance(one.response, Parts) else frame.read(one.response)
            for one in told
        ]
        return [decode_reply(one, to_torch) for one in parts]

    @property
    def left(self):
        """All that is counted of calls that are not done with."""
        door, admission = self.front.door, self.front.admission
        inside = door._calls, door._waiting, door._inside, door._outside
        return [
            *(self.calls.count, self.calls.bytes, self.calls._running),
            *(admission.calls, admission.bytes, self.pool.waiting),
            *inside,
        ]

    def ended(self, code):
        """How many calls ended with this code."""
        return sum(
            count for (_, status), count in self.metrics._calls._totals.items() if status == code
        )


NOTHING = [0, 0, {}, 0, 0, 0, 0, 0, {}, {}]


def ended_with(work, **given):
    """What becomes of work on calls, and what is left of them."""

    async def all_of_it():
        async with Ours(**given) as ours:
            found = await work(ours)
            await asyncio.sleep(0)
            return found, ours.left

    return asyncio.run(all_of_it())


def test_calls_that_are_one_job_leave_nothing():
    """They count as many as they are, until they are answered."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 80))
        before = ours.calls.count, ours.front.admission.calls, ours.pool.waiting
        ours.pool.hurry()
        return before, await ours.settled(), ours.ended("OK")

    (before, found, ended), left = ended_with(work, max_wait=FOR_EVER)

    assert before == (80, 80, 2)
    assert found == dict.fromkeys(range(80), True)
    assert ended == 80
    assert left == NOTHING


def lists_in(ours):
    """Of each list of answers that was written the ids; and of each answer by itself."""
    told = [pb.ComputeStreamResponse.FromString(message) for message in ours.written]
    lists = [[*range(one.first, one.first + one.count)] for each in told for one in each.lists]
    return lists, [one.id for each in told for one in each.answers]


def test_a_list_is_answered_as_a_list():
    """Its losses and gradients are those of the same calls in entries."""
    labels = [[0, 1], [1, 2], [2, 2], [3, 0]]

    async def work(ours):
        ours.begin(list_of(labels, first=7))
        listed = await ours.settled(), lists_in(ours), ours.answers()
        ours.written.clear()
        ours.begin(calls_of(labels))
        await ours.settled()
        return listed, lists_in(ours), ours.answers()

    ((found, lists, answers), entries, theirs), left = ended_with(work)

    assert found == dict.fromkeys(range(7, 11), True)
    assert (lists, entries) == (([[7, 8, 9, 10]], []), ([], [0, 1, 2, 3]))
    assert [(one.loss, one.grad.tolist()) for one in answers] == [
        (one.loss, one.grad.tolist()) for one in theirs
    ]
    assert left == NOTHING


def test_answers_that_are_too_much_for_a_list_are_entries(monkeypatch):
    """They have a payload more than the call: the loss."""
    (run,) = read_asked(list_of([[0, 1]] * 3)).calls
    monkeypatch.setattr(lists, "MOST_PAYLOADS", 1)

    async def work(ours):
        ours.calls.begin(run)
        return await ours.settled(), lists_in(ours)

    (found, written), left = ended_with(work)

    assert found == dict.fromkeys(range(3), True)
    assert written == ([], [0, 1, 2])
    assert left == NOTHING


def test_beside_others_a_list_is_answered_in_parts():
    """Each is a list again, of ids that follow one another; one that is left over is no list."""

    async def work(ours):
        ours.front.door.is_alone = lambda _: False
        ours.begin(list_of([[0, 1]] * 33))
        return await ours.settled(), lists_in(ours)

    (found, lists), left = ended_with(work)

    assert found == dict.fromkeys(range(33), True)
    assert lists == ([[*range(32)]], [32])
    assert left == NOTHING


def test_one_call_of_a_list_that_is_wrong_is_told_so_alone():
    """Then each is answered by itself."""

    async def work(ours):
        ours.begin(list_of([[0, 1], [0, 9], [2, 3], [1, 1]]))
        return await ours.settled(), lists_in(ours)[0]

    (found, lists), left = ended_with(work)

    assert found == {0: True, 1: False, 2: True, 3: True}
    assert (lists, left) == ([], NOTHING)


def test_calls_of_a_list_that_are_given_up_in_its_message_are_not_begun():
    """The others are answered each by itself."""

    async def work(ours):
        ours.begin(list_of([[0, 1]] * 4) + b"".join(saying.cancelled([1, 3])))
        return await ours.settled()

    found, left = ended_with(work)

    assert found == {0: True, 2: True}
    assert left == NOTHING


@pytest.mark.parametrize("again", [calls_of, list_of], ids=["entries", "a list"])
def test_a_list_has_ids_of_its_own(again):
    """No other call in flight has one of them."""

    async def work(ours):
        ours.begin(list_of([[0, 1]] * 3))
        with pytest.raises(MessageError, match="of no other call in flight"):
            ours.begin(again([[0, 1]] * 2))
        ours.pool.hurry()
        return await ours.settled()

    found, left = ended_with(work, max_wait=FOR_EVER)

    assert found == dict.fromkeys(range(3), True)
    assert left == NOTHING


def test_one_call_that_is_wrong_is_told_so_alone():
    """Its neighbours are answered, each counted once."""

    async def work(ours):
        ours.begin(calls_of([[0, 1], [0, 9], [2, 3], [1, 1]]))
        found = await ours.settled()
        return found, ours.ended("OK"), ours.ended("INVALID_ARGUMENT")

    (found, well, wrong), left = ended_with(work)

    assert found == {0: True, 1: False, 2: True, 3: True}
    assert (well, wrong) == (3, 1)
    assert left == NOTHING


def test_what_is_worked_on_again_takes_no_place_twice():
    """Twelve calls fit in where twenty may be, though one of them is wrong."""

    async def work(ours):
        for _ in range(5):
            ours.pool.expect()  # others are about to come, so nothing is computed at once
        ours.begin(calls_of([[0, 1]] * 11 + [[0, 9]]))
        return await ours.settled()

    found, left = ended_with(work, limits=Limits(max_calls_in_flight=20))

    assert found == {number: number != 11 for number in range(12)}
    assert left == NOTHING


def test_what_is_worked_on_again_is_computed_together():
    """One that is wrong does not cost its neighbours their company."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 11 + [[0, 9]]))
        await ours.settled()
        told = [pb.ComputeStreamResponse.FromString(message) for message in ours.written]
        return [one.response.header.timings.batch for each in told for one in each.answers]

    batches, left = ended_with(work)

    assert sorted(batches) == [0] + [11] * 11
    assert left == NOTHING


def test_one_of_several_that_is_given_up_leaves_the_others():
    """All are still worked on; given up altogether, none is."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 5))
        for number in (1, 2, 99, 2):
            ours.calls.cancel(number)
        waits = ours.pool.waiting
        ours.pool.hurry()
        return waits, await ours.settled()

    (waits, found), left = ended_with(work, max_wait=FOR_EVER)

    assert waits == 1
    assert {0, 3, 4} <= found.keys()
    assert all(found.values())
    assert left == NOTHING


def test_several_that_are_given_up_are_not_computed():
    """Nobody is told anything; they count as cancelled."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 5))
        for number in range(5):
            ours.calls.cancel(number)
        return await ours.settled(), ours.ended("CANCELLED"), ours.pool.waiting

    (found, ended, waits), left = ended_with(work, max_wait=FOR_EVER)

    assert (found, ended, waits) == ({}, 5, 0)
    assert left == NOTHING


def test_several_that_wait_at_the_door_may_be_given_up():
    """They are let in no more; those behind them are."""

    async def work(ours):
        door = ours.front.door
        while door._is_open("ours"):
            await door.enter("ours")
        inside = door._calls
        ours.begin(calls_of([[0, 1]] * 3))
        ours.begin(calls_of([[0, 1]] * 9)[len(calls_of([[0, 1]] * 3)) :])
        waiting = door._waiting
        for number in range(3):
            ours.calls.cancel(number)
        await asyncio.sleep(0)
        for _ in range(inside):
            door.leave("ours")
        return waiting, await ours.settled()

    (waiting, found), left = ended_with(work)

    assert waiting == 2
    assert found == dict.fromkeys(range(3, 9), True)
    assert left == NOTHING


@pytest.mark.parametrize("at_the_door", [False, True], ids=["inside", "at the door"])
def test_several_whose_time_is_over_are_told_so_each(at_the_door):
    """While they wait for company, or for their turn."""

    async def work(ours):
        door, inside = ours.front.door, 0
        while at_the_door and door._is_open("ours"):
            await door.enter("ours")
            inside += 1
        ours.begin(calls_of([[0, 1]] * 5, timeout=0.05))
        found = await ours.settled(), ours.ended("DEADLINE_EXCEEDED")
        for _ in range(inside):
            door.leave("ours")
        return found

    (found, ended), left = ended_with(work, max_wait=FOR_EVER)

    assert found == dict.fromkeys(range(5), False)
    assert ended == 5
    assert left == NOTHING


def test_several_whose_answers_nobody_can_have_leave_nothing():
    """The stream has ended before they are computed."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 5))
        ours.outbox.end()
        ours.pool.hurry()
        return await ours.settled()

    found, left = ended_with(work, max_wait=FOR_EVER)

    assert found == {}
    assert left == NOTHING


def test_several_of_a_stream_that_ends_leave_nothing():
    """Whoever hangs up gives up all of them."""

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 5, timeout=FOR_EVER))
        ours.calls.end()
        return await ours.settled()

    found, left = ended_with(work, max_wait=FOR_EVER)

    assert found == {}
    assert left == NOTHING


def test_several_that_had_better_not_wait_are_refused_each():
    """As each by itself would be."""

    async def work(ours):
        door = ours.front.door
        while door._is_open("ours"):
            await door.enter("ours")
        inside, door._pace = door._calls, 1.0  # a second an answer
        ours.begin(calls_of([[0, 1]] * 5, timeout=1.0))
        found = await ours.settled(), ours.ended("RESOURCE_EXHAUSTED")
        for _ in range(inside):
            door.leave("ours")
        return found

    (found, ended), left = ended_with(work)

    assert found == dict.fromkeys(range(5), False)
    assert ended == 5
    assert left == NOTHING


def test_several_are_refused_by_a_server_that_is_to_end():
    """Each is told so."""

    async def work(ours):
        ours.front.admission.drain()
        ours.begin(calls_of([[0, 1]] * 5))
        return await ours.settled(), ours.ended("UNAVAILABLE")

    (found, ended), left = ended_with(work)

    assert found == dict.fromkeys(range(5), False)
    assert ended == 5
    assert left == NOTHING


def test_several_that_are_too_large_together_are_let_in_as_there_is_room():
    """The sum of them is above what may be in flight; each by itself is not."""
    size = len(calls_of([[0, 1]]))

    async def work(ours):
        ours.begin(calls_of([[0, 1]] * 5))
        return await ours.settled()

    found, left = ended_with(work, limits=Limits(max_bytes_in_flight=3 * size))

    assert sum(found.values()) >= 3
    assert left == NOTHING


def test_two_of_several_with_one_id_end_the_stream():
    """And leave nothing behind."""
    one = calls_of([[0, 1]])

    async def work(ours):
        with pytest.raises(MessageError, match="in flight"):
            ours.begin(one + one)
        ours.calls.end()
        return await ours.settled()

    found, left = ended_with(work, max_wait=FOR_EVER)

    assert found == {}
    assert left == NOTHING
