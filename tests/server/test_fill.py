"""lossserver.fill: what fits into a batch before somebody in it is too late, and its limits."""

import pytest

from lossserver.batch import BatchLimits, BatchQueue
from tests.server.waiting import FakeJob, labels


def queue(*jobs, max_seconds=60.0):
    waiting = BatchQueue(BatchLimits(max_elements=4, max_seconds=max_seconds))
    for job in jobs:
        waiting.put(job, now=0.0)
    return waiting


def per_element(_pace, elements):
    return float(elements)


def test_a_batch_ends_before_a_deadline_in_it():
    """It is closed as soon as one more would make somebody in it late."""
    jobs = [FakeJob(1, deadline=2.5), FakeJob(2), FakeJob(3)]
    waiting = queue(*jobs)

    assert labels(waiting.take(0.0, per_element)) == [1, 2]
    assert labels(waiting.take(2.0, per_element)) == [3]


def test_a_batch_takes_no_longer_than_max_seconds():
    """Whoever comes next must not wait for a batch that saves nothing more; a lone job may be larger."""
    waiting = queue(FakeJob(1), FakeJob(2), FakeJob(3), max_seconds=2.5)

    assert labels(waiting.take(0.0, per_element)) == [1, 2]

    waiting.put(FakeJob("large", elements=9), now=0.0)

    assert [labels(waiting.take(0.0, per_element)) for _ in "ab"] == [[3], ["large"]]


def test_a_job_that_this_batch_would_make_late_is_left_for_the_next():
    """It can be in time alone, so it is not computed too late in company; others still join."""
    jobs = [
        FakeJob(1, elements=2),
        FakeJob("hasty", deadline=2.9, tenant="two"),
        FakeJob("behind", tenant="two"),
        FakeJob("patient", tenant="three"),
    ]
    waiting = queue(*jobs)

    assert labels(waiting.take(0.0, per_element)) == [1, "patient"]
    assert labels(waiting.take(1.0, per_element)) == ["hasty"]
    assert waiting.late() == []


def test_a_job_that_cannot_be_in_time_is_given_back():
    """It is in no batch, and told once; without a prediction nothing is known of deadlines."""
    late = FakeJob("late", elements=3, deadline=2.0)
    jobs = [FakeJob("ok", deadline=2.0), late, FakeJob("never", key="iou", deadline=-1.0)]
    waiting = queue(*jobs)

    assert labels(waiting.take(0.0, per_element)) == ["ok"]
    assert waiting.late() == []
    assert waiting.take(0.0, per_element) == []
    assert labels(waiting.late()) == ["late", "never"]
    assert waiting.late() == []
    assert len(waiting) == 0
    assert labels(queue(late).take(now=9.0)) == ["late"]


def test_a_late_job_behind_the_first_is_found_in_passing():
    """The batch is made of those behind it, and its tenant loses no time."""
    jobs = [FakeJob(1), FakeJob("late", deadline=0.5), FakeJob(3, deadline=9.0)]
    waiting = queue(*jobs)

    assert labels(waiting.take(0.0, per_element)) == [1, 3]
    assert labels(waiting.late()) == ["late"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_elements": 0},
        {"max_bytes": 0},
        {"max_jobs": 0},
        {"max_seconds": 0.0},
        {"max_wait": -1.0},
        {"max_wait": 60.0},
        {"wait_of": ("FocalLoss",)},
        {"wait_of": ("FocalLoss=soon",)},
        {"wait_of": ("=0.1",)},
        {"wait_of": ("FocalLoss=0.1", "L1Loss=60")},
        {"wait_of": ("FocalLoss=nan",)},
    ],
)
def test_limits_are_checked(wrong):
    """A limit that could never work is refused when the server starts."""
    with pytest.raises(ValueError, match="must be"):
        BatchLimits(**wrong)
