"""lossserver.admit: who may enter."""

import pytest

from lossserver.admit import Admission, Limits
from losswire.errors import DeadlineError, DrainingError, MessageTooLargeError, OverloadedError

LIMITS = Limits(max_message_bytes=100, max_bytes_in_flight=150, max_calls_in_flight=2)


@pytest.fixture
def admission():
    return Admission(LIMITS)


def enter(admission, size=10, remaining=None):
    return admission.enter(size, remaining)


def test_a_place_is_given_back(admission):
    """However a call ends, its bytes and its place are free again."""
    for _ in range(3):
        with enter(admission, 100), pytest.raises(OverloadedError), enter(admission, 60):
            pass
        with pytest.raises(ZeroDivisionError), enter(admission, 100):
            raise ZeroDivisionError

    with enter(admission, 100), enter(admission, 50):
        pass


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
    with pytest.raises(error, match=said), enter(admission, size, remaining):
        pass


def test_too_many_calls_are_refused(admission):
    """The third of two."""
    with (
        enter(admission),
        enter(admission),
        pytest.raises(OverloadedError, match=r"at most 2 calls .*--max-calls-in-flight"),
        enter(admission),
    ):
        pass


def test_bytes_over_the_sum_are_refused():
    """Unless it is alone: a message allowed by itself must be able to enter some time."""
    admission = Admission(Limits(max_message_bytes=100, max_bytes_in_flight=50))
    with (
        enter(admission, 90),
        pytest.raises(OverloadedError, match="--max-bytes-in-flight"),
        enter(admission, 10),
    ):
        pass


def test_a_draining_server_takes_no_more(admission):
    """Those who are in stay in."""
    with enter(admission):
        admission.draining = True
        with pytest.raises(DrainingError, match="shutting down"), enter(admission):
            pass


@pytest.mark.parametrize(
    "wrong", [{"max_message_bytes": 0}, {"max_message_bytes": 2**30}, {"max_calls_in_flight": 0}]
)
def test_limits_are_checked(wrong):
    """A limit that could never work is refused when the server starts."""
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)
