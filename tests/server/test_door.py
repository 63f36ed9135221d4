"""lossserver.door: a tenant with many calls does not hold up another's one."""

import asyncio

import pytest

from lossserver.door import AHEAD, LEAST, MOST, SHARE, SLOWLY, SPARE, THERE, WAIT, Door
from losswire.errors import OverloadedError

#: Calls of a tenant that may wait.
MANY = 200


class Clock:
    """A time that only moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def knock(door, tenant, count):
    """Tasks that want in, as far as they get at once."""
    tasks = [asyncio.ensure_future(door.enter(tenant)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


def inside(tasks):
    return sum(task.done() and not task.cancelled() for task in tasks)


def test_who_is_alone_is_not_held_up(clock):
    """A batch of one tenant's calls may be as large as it likes."""

    async def scenario():
        return inside(await knock(Door(clock, MANY), "one", 50))

    assert asyncio.run(scenario()) == 50


def test_while_another_is_there_a_tenant_has_its_share(clock):
    """The greedy one waits before the door; the modest one walks in; each that leaves lets one in."""

    async def scenario():
        door = Door(clock, MANY)
        (modest,) = await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", 50)
        counts = [inside(greedy)]
        for _ in range(3):
            door.leave("greedy")
            await asyncio.sleep(0)
            counts.append(inside(greedy))
        door.leave("modest")
        (again,) = await knock(door, "modest", 1)
        for task in greedy:
            task.cancel()
        return modest.done(), counts, again.done()

    assert asyncio.run(scenario()) == (True, [SHARE, SHARE + 1, SHARE + 2, SHARE + 3], True)


def test_once_the_other_has_gone_all_are_let_in(clock):
    """Nobody waits for somebody who does not come any more."""

    async def scenario():
        door = Door(clock, MANY)
        await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", 50)
        clock.now += 2 * THERE
        door.leave("greedy")
        await asyncio.sleep(0)
        return inside(greedy)

    assert asyncio.run(scenario()) == 50


async def paced(clock, seconds):
    """A door whose server gives an answer every so many seconds."""
    door = Door(clock, MANY)
    await knock(door, "one", 2)
    for _ in range(20 * SLOWLY):
        await knock(door, "one", 1)
        clock.now += seconds
        door.leave("one")
    door.leave("one")
    door.leave("one")
    return door


@pytest.mark.parametrize(
    ("seconds", "most"), [(AHEAD / MOST / 2, MOST), (AHEAD / 32, 32), (AHEAD, LEAST)]
)
def test_no_more_are_past_the_door_than_keep_the_server_busy(clock, seconds, most):
    """As many as are answered in a tenth of a second, within bounds."""

    async def scenario():
        door = await paced(clock, seconds)
        return inside(await knock(door, "one", 2 * MOST))

    assert asyncio.run(scenario()) == pytest.approx(most, abs=1)


def test_a_call_that_would_wait_too_long_is_refused(clock):
    """It costs nothing, and the others come in time; one with more time waits its turn."""

    async def scenario():
        door = await paced(clock, 0.01)
        waiting = await knock(door, "one", LEAST + 33)
        first = asyncio.ensure_future(door.enter("one", 0.4 / WAIT))
        second = asyncio.ensure_future(door.enter("one", 0.6 / WAIT))
        third = asyncio.ensure_future(door.enter("one", None))
        await asyncio.wait([first], timeout=0)
        with pytest.raises(OverloadedError, match="in time"):
            first.result()
        for task in (second, third, *waiting):
            task.cancel()
        return inside(waiting), second.done(), third.done()

    assert asyncio.run(scenario()) == (LEAST, False, False)


def test_while_others_call_a_tenant_may_not_fill_the_server(clock):
    """It may have so many calls before the door; what comes beside is refused, and others' are not."""

    async def scenario():
        door = Door(clock, 3)
        await knock(door, "modest", 1)
        waiting = await knock(door, "greedy", SHARE + 3)
        refused = door.refusal("greedy", None), door.refusal("modest", None)
        clock.now += 2 * THERE
        later = door.refusal("greedy", None)
        for task in waiting:
            task.cancel()
        return refused, later

    (greedy, modest), later = asyncio.run(scenario())

    assert "at most 3 calls of one caller" in str(greedy)
    assert (modest, later) == (None, None)


def test_one_tenant_cannot_have_all_places(clock):
    """Its calls may be such whose messages never come; others still get in, and as many as before."""

    async def scenario():
        door = Door(clock, MANY)
        stalled = await knock(door, "stalled", 2 * MOST)
        clock.now += 60
        others = [task for i in range(40) for task in await knock(door, f"other {i}", SHARE + 1)]
        for task in (*stalled, *others):
            task.cancel()
        return inside(stalled), inside(others)

    assert asyncio.run(scenario()) == (MOST, SPARE)


def test_tenants_that_wait_take_turns(clock):
    """One with a hundred calls before the door and ten with one each: the ten need not wait for it."""

    async def scenario():
        door = await paced(clock, 1.0)
        clock.now += 1
        taken = await knock(door, "earlier", LEAST)
        greedy = await knock(door, "greedy", 100)
        modest = [task for i in range(10) for task in await knock(door, f"modest {i}", 1)]
        for _ in range(12):
            door.leave("earlier")
            clock.now += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in greedy:
            task.cancel()
        return inside(taken), inside(greedy), inside(modest)

    assert asyncio.run(scenario()) == (LEAST, 2, 10)


def test_who_gives_up_before_the_door_leaves_no_trace(clock):
    """Its turn goes to the next, also if it had just been given one."""

    async def scenario():
        door = Door(clock, MANY)
        await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", SHARE + 3)
        greedy[SHARE].cancel()
        await asyncio.sleep(0)
        door.leave("greedy")
        greedy[SHARE + 1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last = greedy[SHARE + 2].done()
        for _ in range(SHARE):
            door.leave("greedy")
        door.leave("modest")
        return last, door._inside, door._calls, door._outside, door._waiting, door._ready

    assert asyncio.run(scenario()) == (True, {}, 0, {}, 0, {})


def test_who_gives_up_just_as_its_turn_comes_is_passed_over(clock):
    """And ends as who gave up, whether others of its tenant wait or not."""

    async def scenario(waiting):
        door = Door(clock, MANY)
        await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", SHARE + waiting)
        greedy[SHARE].cancel()
        door.leave("greedy")
        ended = await asyncio.gather(*greedy[SHARE:], return_exceptions=True)
        return [type(one) for one in ended]

    gone = asyncio.CancelledError

    assert asyncio.run(scenario(1)) == [gone]
    assert asyncio.run(scenario(2)) == [gone, type(None)]
