"""lossserver.door: a tenant with many calls does not hold up another's one."""

import asyncio

import pytest

from lossserver.door import SHARE, THERE, Door


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
        return inside(await knock(Door(clock), "one", 50))

    assert asyncio.run(scenario()) == 50


def test_while_another_is_there_a_tenant_has_its_share(clock):
    """The greedy one waits before the door; the modest one walks in; each that leaves lets one in."""

    async def scenario():
        door = Door(clock)
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
        door = Door(clock)
        await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", 50)
        clock.now += 2 * THERE
        door.leave("greedy")
        await asyncio.sleep(0)
        return inside(greedy)

    assert asyncio.run(scenario()) == 50


def test_who_gives_up_before_the_door_leaves_no_trace(clock):
    """Its turn goes to the next, also if it had just been given one."""

    async def scenario():
        door = Door(clock)
        await knock(door, "modest", 1)
        greedy = await knock(door, "greedy", SHARE + 3)
        greedy[SHARE].cancel()
        door.leave("greedy")
        greedy[SHARE + 1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        last = greedy[SHARE + 2].done()
        for _ in range(SHARE):
            door.leave("greedy")
        door.leave("modest")
        return last, door._inside, dict(door._outside)

    assert asyncio.run(scenario()) == (True, {}, {})
