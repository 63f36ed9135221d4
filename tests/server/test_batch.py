"""lossserver.batch: who goes together, and when. No test here waits: time is an argument."""

import pytest

from lossserver.batch import BatchLimits, BatchQueue
from lossserver.fair import QUANTUM, Turns
from lossserver.line import Ticket
from tests.server.waiting import FakeJob, labels


def queue(*jobs, now=0.0, max_elements=4, **limits):
    waiting = BatchQueue(BatchLimits(max_elements=max_elements, **limits))
    for job in jobs:
        waiting.put(job, now)
    return waiting


def test_whoever_is_there_goes():
    """By default nobody waits for company: a lone job goes at once, three go together."""
    waiting = queue(FakeJob(1), now=5.0)

    assert labels(waiting.take(now=5.0)) == [1]

    for label in (2, 3, 4):
        waiting.put(FakeJob(label), now=6.0)

    assert labels(waiting.take(now=6.0)) == [2, 3, 4]
    assert waiting.take(now=6.0) == []
    assert waiting.due_at() is None


def test_a_lone_job_waits_for_company_no_longer_than_max_wait():
    """With max_wait a job is due so long after its own arrival, not before."""
    waiting = queue(FakeJob(1), max_wait=0.010)

    assert waiting.due_at() == 0.010
    assert waiting.take(now=0.009) == []
    assert labels(waiting.take(now=0.010)) == [1]


def test_each_loss_may_wait_its_own_time():
    """A loss named in wait_of waits so long, whatever max_wait is for the others."""
    waiting = queue(max_wait=1.0, wait_of=("GIoULoss=0.5", "L1Loss=0"))
    waiting.put(FakeJob("usual"), now=0.0)
    waiting.put(FakeJob("own", key="iou", name="GIoULoss"), now=0.1)
    waiting.put(FakeJob("never", key="l1", name="L1Loss"), now=0.2)

    assert waiting.due_at() == 0.2
    assert labels(waiting.take(now=0.2)) == ["never"]
    assert waiting.due_at() == 0.6
    assert labels(waiting.take(now=2.0)) == ["own"]
    assert labels(waiting.take(now=2.0)) == ["usual"]


def test_nobody_waits_once_nobody_else_will_come():
    """When the server drains, what waited for company is due at once, and what comes yet too."""
    waiting = queue(FakeJob(1), max_wait=9.0, wait_of=("GIoULoss=8.0",))
    waiting.hurry()

    assert labels(waiting.take(now=0.0)) == [1]

    waiting.put(FakeJob(2, name="GIoULoss"), now=1.0)

    assert labels(waiting.take(now=1.0)) == [2]


def test_a_job_nobody_wants_any_more_is_dropped():
    """It leaves the queue, and what is left is as if it had never come."""
    gone, stays = FakeJob("gone", elements=2), FakeJob("stays", elements=1)
    waiting = queue(gone, max_wait=9.0)
    waiting.put(stays, now=1.0)
    waiting.drop(gone)
    waiting.drop(FakeJob("never came"))

    assert waiting.due_at() == 10.0
    assert waiting.take(now=10.0) == [stays]

    waiting.put(gone, now=11.0)
    waiting.drop(gone)
    waiting.drop(gone)

    assert (len(waiting), waiting.due_at()) == (0, None)


def test_late_arrivals_do_not_restart_the_wait():
    """A steady trickle cannot starve the head of the queue, and what comes meanwhile goes along."""
    waiting = queue(FakeJob(1), max_wait=0.010)
    waiting.put(FakeJob(2), now=0.009)

    assert labels(waiting.take(now=0.010)) == [1, 2]


@pytest.mark.parametrize(
    "limits", [{"max_elements": 4}, {"max_elements": 99, "max_bytes": 40}, {"max_jobs": 2}]
)
def test_a_full_batch_waits_for_nobody(limits):
    """Whether by its elements, its bytes or in number, the job that fills the batch makes it due."""
    waiting = queue(FakeJob(1, elements=1, bytes=10), max_wait=9.0, **limits)

    assert waiting.take(now=0.001) == []

    waiting.put(FakeJob(2, elements=3, bytes=30), now=0.001)

    assert waiting.due_at() == 0.001
    assert labels(waiting.take(now=0.001)) == [1, 2]


@pytest.mark.parametrize(
    "limits", [{"max_elements": 4}, {"max_elements": 99, "max_bytes": 40}, {"max_jobs": 2}]
)
def test_no_batch_is_larger_than_its_limits(limits):
    """The third job would be too much by any of the limits, so it goes in the next."""
    jobs = [FakeJob(label, elements=2, bytes=20) for label in (1, 2, 3)]
    waiting = queue(*jobs, **limits)

    assert labels(waiting.take(now=0.0)) == [1, 2]
    assert labels(waiting.take(now=0.0)) == [3]


def test_a_job_larger_than_a_batch_goes_alone():
    """It is neither refused nor stuck, and takes nobody with it."""
    waiting = queue(FakeJob("big", elements=9), FakeJob("small", elements=0))

    assert labels(waiting.take(now=0.0)) == ["big"]
    assert labels(waiting.take(now=0.0)) == ["small"]


def test_the_most_overdue_key_goes_first():
    """Of two losses that wait, the one whose oldest job came first."""
    waiting = queue()
    waiting.put(FakeJob(1, key="iou"), now=0.1)
    waiting.put(FakeJob(2, key="focal"), now=0.2)
    waiting.put(FakeJob(3, key="iou"), now=0.3)

    assert labels(waiting.take(now=1.0)) == [1, 3]
    assert labels(waiting.take(now=1.0)) == [2]


def test_urgent_jobs_go_first():
    """Priority 0 before 1 before 2, both in what the next batch is and in who is in it."""
    waiting = queue(
        FakeJob("last", priority=2, elements=3),
        FakeJob("usual", priority=1),
        FakeJob("other", priority=1, key="iou"),
        FakeJob("first", priority=0),
    )

    assert labels(waiting.take(now=0.0)) == ["first", "usual"]
    assert labels(waiting.take(now=0.0)) == ["other"]
    assert labels(waiting.take(now=0.0)) == ["last"]


def test_who_waits_last_goes_in_the_eighth_batch():
    """While urgent jobs keep coming, the most overdue of all begins each eighth batch."""
    waiting = queue(FakeJob("patient", key="z", priority=2))
    taken = []
    for i in range(8):
        waiting.put(FakeJob(i, key=i, priority=0), now=1.0 + i)
        taken += labels(waiting.take(now=1.0 + i))

    assert taken == [0, 1, 2, 3, 4, 5, 6, "patient"]


def test_a_tenant_with_many_losses_leaves_another_its_turn():
    """Fifty losses that one tenant sent are followed by the one job that another sent after them."""
    many = [FakeJob(i, key=i, elements=QUANTUM, tenant="greedy") for i in range(50)]
    waiting = queue(*many, max_elements=1 << 22)

    assert labels(waiting.take(now=0.0)) == [0]

    waiting.put(FakeJob("modest", key="m", elements=QUANTUM, tenant="modest"), now=1.0)

    assert "modest" in labels(waiting.take(now=1.0) + waiting.take(now=1.0))


def test_a_tenant_with_many_jobs_leaves_another_its_room():
    """Fifty jobs of one tenant do not crowd another's out of the batch that they share."""
    many = [FakeJob(i, elements=QUANTUM, tenant="greedy") for i in range(50)]
    waiting = queue(*many, max_elements=8 * QUANTUM)
    for i in range(50):
        waiting.put(FakeJob("modest", elements=QUANTUM, tenant="modest"), now=1.0 + i)

    assert labels(waiting.take(now=99.0)).count("modest") == 4


def test_when_all_fit_all_go():
    """Fairness costs nothing where there is room for everybody."""
    waiting = queue(*(FakeJob(i, tenant=f"{i % 7}") for i in range(100)), max_elements=100)

    assert len(waiting.take(now=0.0)) == 100


def test_a_job_that_filled_a_batch_stays_due():
    """What it found there is due with it, also if it is dropped: company was there."""
    fills = FakeJob("fills", elements=3)
    waiting = queue(FakeJob("there"), FakeJob("iou", key="iou"), max_wait=9.0)
    waiting.put(fills, now=1.0)
    waiting.drop(fills)

    assert labels(waiting.take(now=1.0)) == ["there"]
    assert waiting.take(now=1.0) == []


def test_credit_is_not_saved_up_with_a_job_that_is_then_given_up():
    """Who cancels a huge job that it waited long for begins as others do, but for a quantum."""
    turns = Turns()
    huge = Ticket(FakeJob("huge", elements=1000 * QUANTUM, tenant="sly"), 0.0, 0.0)
    turns.add(huge)
    for i in range(20):
        for tenant in ("honest", "sly"):
            turns.add(Ticket(FakeJob(tenant, elements=10 * QUANTUM, tenant=tenant), 0.0, float(i)))
    went = []
    for _ in range(12):
        ticket = turns.next()
        went.append(ticket.job.label)
        turns.pay(ticket.job)
        turns.remove(ticket)
        if len(went) == 8:
            turns.remove(huge)

    assert went[:8] == ["honest"] * 8
    assert went[8:] == ["sly", "sly", "honest", "sly"]
