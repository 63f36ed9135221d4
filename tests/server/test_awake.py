"""lossserver.awake: an event loop waits awake for a trainer who asks again at once, and for nobody else."""

import asyncio

import pytest

from lossserver import awake
from lossserver.awake import AT_ONCE, IN_A_ROW, Awake

SECONDS = 0.5


@pytest.fixture
def looks(monkeypatch):
    """The looks at whether something has come that were taken without sleeping; of two cores."""
    found = []
    monkeypatch.setattr(awake.os, "sched_yield", lambda: found.append(1))
    monkeypatch.setattr(awake, "cores", lambda: 2)
    return found


def told(scenario, **given):
    """What a scenario finds, of a loop whose time it sets, and an Awake on it."""

    async def run():
        loop, now = asyncio.get_running_loop(), [100.0]
        loop.time = lambda: now[0]
        options = {"seconds": SECONDS, "busy": lambda: False} | given
        return await scenario(Awake(**options), now)

    return asyncio.run(run())


async def turns(count=5):
    """Let the loop take so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def asked(one, now, after=SECONDS / 2, times=1):
    """Calls that come so many seconds after the last answer each, and are answered at once."""
    for _ in range(times):
        now[0] += after
        one.came(1)
        one.answered()


def test_it_waits_awake_once_calls_have_come_soon(looks):
    """Several in a row, which none of another kind has interrupted; and until the next one comes."""

    async def scenario(one, now):
        seen = []
        for after in (SECONDS / 2, 2 * SECONDS, SECONDS / 2, AT_ONCE / 2, SECONDS / 2):
            asked(one, now, after, IN_A_ROW)
            looks.clear()
            await turns()
            seen.append(len(looks) > 2)
        one.came(1)
        looks.clear()
        await turns()
        return seen, len(looks)

    # The first call of all comes after no answer.
    assert told(scenario) == ([False, False, True, False, True], 0)


@pytest.mark.parametrize("others", ["two together", "one at once", "one late"])
def test_a_call_that_is_no_lone_caller_s_ends_it(looks, others):
    """Several callers in one process need the core; then all begins anew."""

    async def scenario(one, now):
        asked(one, now, times=IN_A_ROW + 1)
        now[0] += {"two together": SECONDS / 2, "one at once": 0.0, "one late": SECONDS}[others]
        one.came(2 if others == "two together" else 1)
        one.answered()
        asked(one, now, times=IN_A_ROW - 1)
        await turns()
        before = len(looks)
        asked(one, now)
        await turns()
        return before, len(looks) > 2

    assert told(scenario) == (0, True)


def test_it_sleeps_when_nothing_comes(looks):
    """After so many seconds."""

    async def scenario(one, now):
        asked(one, now, times=IN_A_ROW + 1)
        await turns()
        awake_at_first = len(looks)
        now[0] += SECONDS
        await turns(2)
        looks.clear()
        await turns()
        return awake_at_first > 2, len(looks)

    assert told(scenario) == (True, 0)


def test_many_answers_are_one_wait(looks):
    """However many calls there were, the loop looks once a turn."""

    async def scenario(one, now):
        asked(one, now, times=3 * IN_A_ROW)
        await turns(8)
        return len(looks)

    assert 2 < told(scenario) <= 8


@pytest.mark.parametrize(
    "given",
    [{"busy": lambda: True}, {"seconds": 0.0}],
    ids=["while something is computed", "where it is not to"],
)
def test_it_takes_no_core_that_others_need(looks, given):
    """What is computed needs it, and so may the trainer."""

    async def scenario(one, now):
        asked(one, now, times=2 * IN_A_ROW)
        await turns()

    told(scenario, **given)
    assert looks == []


def test_on_a_single_core_it_sleeps(looks, monkeypatch):
    """Else the trainer would wait for it, and it for the trainer."""
    monkeypatch.setattr(awake, "cores", lambda: 1)

    async def scenario(one, now):
        asked(one, now, times=2 * IN_A_ROW)
        await turns()

    told(scenario)
    assert looks == []
