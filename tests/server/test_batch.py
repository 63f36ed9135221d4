"""lossserver.batch: who goes together, and when. No test here waits: time is an argument."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossserver.batch import BatchLimits, BatchQueue


@dataclass(frozen=True)
class FakeJob:
    name: object
    key: str = "focal"
    elements: int = 1


def queue(max_elements=4, max_wait=0.0):
    return BatchQueue(BatchLimits(max_elements=max_elements, max_wait=max_wait))


def test_whoever_is_there_goes():
    """By default nobody waits for company: a lone job goes at once, three go together."""
    waiting = queue()
    waiting.put(FakeJob(1), now=5.0)

    assert waiting.take(now=5.0) == [FakeJob(1)]

    for name in (2, 3, 4):
        waiting.put(FakeJob(name), now=6.0)

    assert waiting.take(now=6.0) == [FakeJob(2), FakeJob(3), FakeJob(4)]
    assert waiting.take(now=6.0) == []
    assert waiting.due_at() is None


def test_a_lone_job_waits_for_company_no_longer_than_max_wait():
    """With max_wait a job is due so long after its own arrival, not before."""
    waiting = queue(max_wait=0.010)
    waiting.put(FakeJob(1), now=0.0)

    assert waiting.due_at() == 0.010
    assert waiting.take(now=0.009) == []
    assert waiting.take(now=0.010) == [FakeJob(1)]


def test_nobody_waits_once_nobody_else_will_come():
    """When the server drains, what waited for company is due at once."""
    waiting = queue(max_wait=9.0)
    waiting.put(FakeJob(1), now=0.0)
    waiting.hurry()

    assert waiting.take(now=0.0) == [FakeJob(1)]


def test_a_job_nobody_wants_any_more_is_dropped():
    """It leaves the queue, and what is left is as if it had never come."""
    waiting = queue(max_elements=4, max_wait=9.0)
    gone, stays = FakeJob("gone", elements=3), FakeJob("stays", elements=1)
    waiting.put(gone, now=0.0)
    waiting.put(stays, now=1.0)
    waiting.drop(gone)
    waiting.drop(FakeJob("never came"))

    assert waiting.due_at() == 10.0
    assert waiting.take(now=10.0) == [stays]

    waiting.put(gone, now=11.0)
    waiting.drop(gone)

    assert (len(waiting), waiting.due_at()) == (0, None)


def test_late_arrivals_do_not_restart_the_wait():
    """A steady trickle cannot starve the head of the queue."""
    waiting = queue(max_wait=0.010)
    waiting.put(FakeJob(1), now=0.000)
    waiting.put(FakeJob(2), now=0.009)

    assert waiting.take(now=0.010) == [FakeJob(1), FakeJob(2)]


def test_a_full_batch_waits_for_nobody():
    """A job that fills the batch makes it due."""
    waiting = queue(max_elements=4, max_wait=9.0)
    waiting.put(FakeJob(1, elements=1), now=0.0)
    waiting.put(FakeJob(2, elements=3), now=0.001)

    assert waiting.take(now=0.001) == [FakeJob(1, elements=1), FakeJob(2, elements=3)]


def test_a_job_larger_than_a_batch_goes_alone():
    """It is neither refused nor stuck, and takes nobody with it."""
    waiting = queue(max_elements=4)
    waiting.put(FakeJob("big", elements=9), now=0.0)
    waiting.put(FakeJob("small"), now=0.0)

    assert waiting.take(now=0.0) == [FakeJob("big", elements=9)]
    assert waiting.take(now=0.0) == [FakeJob("small")]


def test_the_most_overdue_key_goes_first():
    """Of two losses that wait, the one whose oldest job came first."""
    waiting = queue()
    waiting.put(FakeJob(1, key="iou"), now=0.1)
    waiting.put(FakeJob(2, key="focal"), now=0.2)
    waiting.put(FakeJob(3, key="iou"), now=0.3)

    assert waiting.take(now=1.0) == [FakeJob(1, key="iou"), FakeJob(3, key="iou")]
    assert waiting.take(now=1.0) == [FakeJob(2, key="focal")]


arrivals = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(0, 0.01)), max_size=30
)


@given(arrivals, st.integers(1, 12), st.sampled_from([0.0, 0.005]))
def test_nothing_is_lost_doubled_mixed_or_overfull(jobs, max_elements, max_wait):
    """Each job leaves once, in order within its key, with its own kind, within the budget."""
    waiting = queue(max_elements, max_wait)
    now, put, taken = 0.0, [], []
    for i, (key, elements, pause) in enumerate(jobs):
        now += pause
        put.append(FakeJob(i, key, elements))
        waiting.put(put[-1], now)
        if i % 3 == 0:
            taken.append(waiting.take(now))
    while (due := waiting.due_at()) is not None:
        now = max(now, due)
        taken.append(waiting.take(now))
        assert taken[-1]

    out = [job for batch in taken for job in batch]
    assert sorted(out, key=lambda job: job.name) == put
    assert len(waiting) == 0
    for batch in filter(None, taken):
        assert len({job.key for job in batch}) == 1
        assert len(batch) == 1 or sum(job.elements for job in batch) <= max_elements
    for key in "abc":
        names = [job.name for job in out if job.key == key]
        assert names == sorted(names)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_nobody_starves(keys):
    """While others keep coming, a job leaves within one batch of each key that was there first."""
    waiting = queue(max_elements=2)
    waiting.put(FakeJob("patient", key="z", elements=2), now=0.0)
    for i, key in enumerate(keys):
        waiting.put(FakeJob(i, key=key), now=1.0 + i)

    assert waiting.take(now=100.0) == [FakeJob("patient", key="z", elements=2)]


@pytest.mark.parametrize("wrong", [{"max_elements": 0}, {"max_wait": -1.0}, {"max_wait": 60.0}])
def test_limits_are_checked(wrong):
    """A limit that could never work is refused when the server starts."""
    with pytest.raises(ValueError, match="must be"):
        BatchLimits(**wrong)
