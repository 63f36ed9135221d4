"""lossserver.pace: how long a batch takes, learned from others."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossserver.pace import KNOWN, REMEMBERED, Pace


def learned(*batches):
    pace = Pace()
    # The first teaches nothing.
    for elements, seconds in ((1, 100.0), *batches):
        pace.learn("focal", elements, seconds)
    return pace


def test_a_line_is_found():
    """From batches of different sizes, what each takes and what each element takes."""
    pace = learned(*((n, 0.002 + 1e-6 * n) for n in (1000, 5000, 2000, 9000, 3000)))

    assert pace.seconds("focal", 20_000) == pytest.approx(0.022)
    assert pace.seconds("focal", 0) == pytest.approx(0.002)


def test_nothing_is_said_before_enough_is_known():
    """A few samples are none, and one pace says nothing of another."""
    pace = learned(*[(1000, 0.5)] * (KNOWN - 1))

    assert pace.seconds("focal", 1000) == 0.0

    pace.learn("focal", 1000, 0.5)

    assert pace.seconds("focal", 1000) == pytest.approx(0.5)
    assert pace.seconds("iou", 1000) == 0.0


def test_of_one_size_the_least_is_said_of_others():
    """A larger batch takes no less, and a smaller one no less than its share: no more is known."""
    pace = learned(*[(1000, 0.5), (1010, 0.5)] * KNOWN)

    assert pace.seconds("focal", 100_000) == pytest.approx(0.5)
    assert pace.seconds("focal", 100) == pytest.approx(0.05, rel=0.02)
    assert learned(*[(0, 0.5)] * KNOWN).seconds("focal", 9) == pytest.approx(0.5)


def test_a_few_tiny_batches_say_nothing_of_a_huge_one():
    """Of 4 to 12 elements the difference is noise; it must not become minutes of a million."""
    pace = learned(*((n, 0.0002 + 0.00001 * n) for n in (4, 8, 12, 4, 8, 12, 4, 8)))

    assert pace.seconds("focal", 1_000_000) < 0.01


def test_slow_starts_are_forgotten():
    """Whatever the first batches took, four quick ones are believed."""
    pace = learned(*[(1000, 30.0)] * 9, *[(1000, 0.001)] * KNOWN)

    assert pace.seconds("focal", 1000) == pytest.approx(0.001)


def test_one_disturbed_batch_hardly_matters():
    """A batch that took ten thousand times as long raises what is said by a fifth at most."""
    pace = learned(*[(1000, 0.001)] * 20, (1000, 10.0))

    assert 0.001 <= pace.seconds("focal", 1000) <= 0.0012001


def test_a_device_that_became_slower_is_believed():
    """Where it stays twice as slow, that is learned within ten batches, to a tenth."""
    pace = learned(*[(1000, 0.001)] * 20, *[(1000, 0.002)] * 10)

    assert pace.seconds("focal", 1000) == pytest.approx(0.002, rel=0.1)


def test_larger_batches_after_small_ones_are_believed_at_once():
    """What is taken for a disturbance is judged by the size of the batch."""
    pace = learned(*[(1000, 0.001)] * 20, *[(100_000, 0.1)] * 2)

    assert pace.seconds("focal", 100_000) == pytest.approx(0.1, rel=0.01)


def test_the_paces_used_last_are_remembered():
    """What is known is bounded, whoever calls."""
    pace = learned(*[(1000, 0.5)] * KNOWN)
    for other in range(REMEMBERED - 1):
        pace.learn(other, 1, 1.0)

    assert pace.seconds("focal", 1000) == pytest.approx(0.5)

    for other in range(REMEMBERED):
        pace.learn(other, 1, 1.0)

    assert pace.seconds("focal", 1000) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.floats(0, 100)), max_size=40))
def test_more_elements_never_take_less(batches):
    """Whatever was seen, what is said is no less for more, never below 0 and never unknown."""
    pace = learned(*batches)
    said = [pace.seconds("focal", n) for n in (0, 1, 1000, 1 << 20, 1 << 40)]

    assert said == sorted(said)
    assert said[0] >= 0


@settings(deadline=None)
@given(
    st.floats(0, 1e-6),
    st.floats(1e-5, 0.01),
    st.lists(st.integers(0, 1 << 20), min_size=KNOWN, max_size=30),
)
def test_on_a_line_it_never_says_too_much(a, b, sizes):
    """Where batches do take a·elements + b, what is said of any size is no more than that."""
    pace = learned(*((n, a * n + b) for n in sizes))

    for n in (0, 1, 1 << 10, 1 << 20, 1 << 25):
        assert pace.seconds("focal", n) <= (a * n + b) * 1.0001


def test_threads_share_it():
    """Several devices teach and ask at once, about more paces than are remembered."""
    pace = Pace()

    def teach():
        for i in range(3 * REMEMBERED):
            pace.learn(i % 1500, 10, 0.1)
            pace.seconds(i % 1400, 10)

    threads = [threading.Thread(target=teach) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert pace.seconds("other", 1) == 0.0
