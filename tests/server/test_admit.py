"""lossserver.admit: who may enter."""

import asyncio
import threading

import pytest

from lossserver.admit import Admission, Limits
from lossserver.answer import aside
from losswire.errors import DeadlineError, DrainingError, MessageTooLargeError, OverloadedError
from tests.conftest import PATIENCE

LIMITS = Limits(max_message_bytes=100, max_bytes_in_flight=150, max_calls_in_flight=2)


@pytest.fixture
def admission():
    return Admission(LIMITS)


def entered(admission, size):
    place = admission.begin()
    place.enter(size, None)
    return place


def test_a_place_is_given_back(admission):
    """When a call ends, its bytes and its place are free again."""
    for _ in range(3):
        first, refused = entered(admission, 100), admission.begin()
        with pytest.raises(OverloadedError):
            refused.enter(60, None)
        first.end()
        refused.end()

    assert (admission.calls, admission.bytes) == (0, 0)
    entered(admission, 100)
    entered(admission, 50)
    assert (admission.calls, admission.bytes) == (2, 150)


@pytest.mark.parametrize(
    ("size", "remaining", "error", "said"),
    [
        (101, None, MessageTooLargeError, "--max-message-bytes raises that; given 101 bytes"),
        (10, 0.0, DeadlineError, r"the deadline must lie ahead; given 0\.000 s"),
        (10, -1.0, DeadlineError, r"the deadline must lie ahead; given -1\.000 s"),
    ],
)
def test_a_call_that_cannot_succeed_is_refused(admission, size, remaining, error, said):
    """The message names the rule, the option and what was given."""
    with pytest.raises(error, match=said):
        admission.begin().enter(size, remaining)


def test_too_many_calls_are_refused_before_they_are_read(admission):
    """The third of two, by its coming alone; the two may go on."""
    admission.begin()
    admission.begin()
    admission.check()
    third = admission.begin()
    with pytest.raises(OverloadedError, match=r"at most 2 calls .*--max-calls-in-.*given 2 in"):
        admission.check()
    third.end()

    admission.check()


def test_bytes_over_the_sum_are_refused():
    """Unless it is alone: a message allowed by itself must be able to enter some time."""
    admission = Admission(Limits(max_message_bytes=100, max_bytes_in_flight=50))
    entered(admission, 90)
    with pytest.raises(OverloadedError, match="--max-bytes-in-flight"):
        entered(admission, 10)


def test_what_a_call_names_counts_for_it(admission):
    """It takes room beside the message, and all of it is given back at once."""
    first = entered(admission, 60)
    first.more(40)
    second = admission.begin()
    with pytest.raises(OverloadedError, match="--max-bytes-in-flight"):
        second.enter(60, None)
    second.enter(50, None)
    with pytest.raises(OverloadedError, match="given 150 in flight and 1 more"):
        second.more(1)
    first.end()
    second.more(100)
    second.end()

    assert (admission.calls, admission.bytes) == (0, 0)


def test_a_call_that_names_too_much_is_refused(admission):
    """More than may ever be in flight never enters, alone or not; the message names the option."""
    alone = entered(admission, 100)
    alone.more(50)
    with pytest.raises(MessageTooLargeError, match=r"--max-bytes-in-flight.*given 151 bytes"):
        alone.more(1)


def test_a_draining_server_takes_no_more(admission):
    """No new calls; one that had begun is let in, since the drain waits for it."""
    begun = admission.begin()
    admission.draining = True
    begun.enter(10, None)

    with pytest.raises(DrainingError, match="shutting down"):
        admission.check()


@pytest.mark.parametrize(
    "wrong", [{"max_message_bytes": 0}, {"max_message_bytes": 2**30}, {"max_calls_in_flight": 0}]
)
def test_limits_are_checked(wrong):
    """A limit that could never work is refused when the server starts."""
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)


def test_a_place_is_held_until_no_thread_has_the_message(admission):
    """A caller that goes does not make room while a thread still reads what it sent."""
    go = threading.Event()

    async def scenario():
        place = entered(admission, 100)
        call = asyncio.create_task(aside(lambda: go.wait(PATIENCE), place))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        place.end()
        meanwhile = admission.calls, admission.bytes
        go.set()
        await admission.empty()
        return call.cancelled(), meanwhile

    assert asyncio.run(scenario()) == (True, (1, 100))
    assert (admission.calls, admission.bytes) == (0, 0)
