"""lossserver.batch, whatever comes in whatever order: what is true of every schedule."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from lossserver.batch import EIGHTH, BatchLimits, BatchQueue
from lossserver.fair import QUANTUM, price
from tests.server.waiting import FakeJob

LIMITS = BatchLimits(max_elements=12, max_bytes=30, max_jobs=5, max_wait=0.01, wait_of=("L1=0",))
WAITS = {"L1": 0.0, "Focal": 0.01}

jobs = st.builds(
    FakeJob,
    key=st.sampled_from("abc"),
    elements=st.integers(0, 15),
    bytes=st.integers(0, 35),
    tenant=st.sampled_from(["one", "two", "three"]),
    priority=st.integers(0, 2),
    deadline=st.none() | st.floats(0, 0.2),
    name=st.sampled_from(sorted(WAITS)),
)
steps = st.one_of(
    st.tuples(st.just("put"), jobs),
    st.tuples(st.just("put"), jobs),
    st.tuples(st.just("take"), st.booleans()),
    st.tuples(st.just("drop"), st.integers(0, 99)),
    st.tuples(st.just("hurry"), st.none()),
)
schedules = st.lists(st.tuples(st.floats(0, 0.01), steps), max_size=60)


def cost(_pace, elements):
    return 0.001 + 0.002 * elements


@dataclass
class Observed:
    """A queue, and everything that went in and came out, checked as it does."""

    queue: BatchQueue = field(default_factory=lambda: BatchQueue(LIMITS))
    now: float = 0.0
    waiting: list = field(default_factory=list)
    due: dict = field(default_factory=dict)
    hurried: bool = False

    def put(self, job):
        """Put a job in; from then on it may go with those of its key if they fill a batch."""
        self.queue.put(job, self.now)
        self.waiting.append(job)
        self.due[job] = self.now + (0.0 if self.hurried else WAITS[job.name])
        kind = [one for one in self.waiting if one.key == job.key]
        if not fits(kind, room=-1):
            self.due.update({one: min(self.now, self.due[one]) for one in kind})

    def drop(self, number):
        """Take out a job, if any."""
        if self.waiting:
            job = self.waiting.pop(number % len(self.waiting))
            self.queue.drop(job)

    def hurry(self, _):
        """Let all be due."""
        self.hurried = True
        self.queue.hurry()
        self.due = dict.fromkeys(self.due, 0.0)

    def take(self, foresees):
        """Take a batch, and check it and what is given back."""
        is_due = any(self.due[job] <= self.now for job in self.waiting)
        batch = self.queue.take(self.now, cost if foresees else None)
        late = self.queue.late()
        for job in batch + late:
            self.waiting.remove(job)
        assert bool(batch or late) == is_due
        assert not late or foresees
        assert all(job.deadline < self.now + cost("", job.elements) for job in late)
        if batch:
            self.check(batch, foresees)

    def check(self, batch, foresees):
        """Of one key, one of them due, within the limits unless alone, and in time."""
        assert len({job.key for job in batch}) == 1
        assert any(self.due[job] <= self.now for job in batch)
        assert len(batch) == 1 or fits(batch)
        end = self.now + cost("", sum(job.elements for job in batch))
        assert not foresees or all(job.deadline is None or end <= job.deadline for job in batch)
        # Who waited for company had it: what is left of the key goes next.
        self.due.update({job: 0.0 for job in self.waiting if job.key == batch[0].key})


def fits(batch, room=0):
    """Whether jobs are a batch, and that with so much less room of each kind."""
    return (
        sum(job.elements for job in batch) <= LIMITS.max_elements + room
        and sum(job.bytes for job in batch) <= LIMITS.max_bytes + room
        and len(batch) <= LIMITS.max_jobs + room
    )


@settings(deadline=None)
@given(schedules)
def test_every_job_leaves_once_and_every_batch_is_right(schedule):
    """Nothing lost, doubled, mixed, overfull, early, late or back from the dropped."""
    seen = Observed()
    for pause, (step, given_to_it) in schedule:
        seen.now += pause
        getattr(seen, step)(given_to_it)

        assert len(seen.queue) == len(seen.waiting)
        assert seen.queue.due_at() is not None or not seen.waiting

    while (due := seen.queue.due_at()) is not None:
        seen.now = max(seen.now, due)
        seen.take(foresees=False)

    assert seen.waiting == []


@settings(deadline=None)
@given(schedules)
def test_of_a_tenant_and_key_the_first_to_come_goes_first(schedule):
    """Whatever else is taken, jobs that are alike leave in the order in which they came."""
    waiting, number, left = BatchQueue(BatchLimits(max_elements=12)), 0, {}
    for now, (_, (step, job)) in enumerate(schedule):
        if step == "put":
            number += 1
            label = (job.key, job.tenant, job.priority)
            alike = FakeJob((label, number), *label[:1], job.elements, 0, *label[1:])
            waiting.put(alike, float(now))
        else:
            for one in waiting.take(float(now)):
                left.setdefault(one.label[0], []).append(one.label[1])

    assert all(numbers == sorted(numbers) for numbers in left.values())


@settings(deadline=None)
@given(st.lists(st.lists(jobs, max_size=4), min_size=1, max_size=80))
def test_nobody_starves(arrivals):
    """A due job goes within EIGHTH batches for itself and for each that was due before it."""
    waiting, batches, bounds = BatchQueue(BatchLimits(max_elements=12)), 0, {}

    def take(now):
        batch = waiting.take(now)
        for job in batch:
            assert batches + 1 <= bounds.pop(job)
        return len(batch) > 0

    for now, some in enumerate(arrivals):
        for job in some:
            bounds[job] = batches + EIGHTH * (len(waiting) + 1)
            waiting.put(job, float(now))
        batches += take(float(now))
    while len(waiting):
        batches += take(1e9)

    assert bounds == {}


def paid(batch, tenant):
    return sum(price(job) for job in batch if job.tenant == tenant)


@settings(deadline=None)
@given(st.data())
def test_two_tenants_who_always_wait_get_the_same(data):
    """They never differ by more than a quantum and the largest job, and one that went out of turn."""
    sizes = data.draw(st.tuples(*[st.lists(st.integers(0, 9 * QUANTUM), min_size=1)] * 2))
    largest = max(QUANTUM, *sizes[0], *sizes[1])
    budget = data.draw(st.integers(largest, 40 * QUANTUM))
    waiting, difference = BatchQueue(BatchLimits(max_elements=budget, max_jobs=20)), 0
    numbers = [0, 0]
    for now in range(40):
        for i in (0, 1):
            while numbers[i] < 20 * (now + 2):
                size = sizes[i][numbers[i] % len(sizes[i])]
                waiting.put(FakeJob(elements=size, tenant=f"{i}"), float(now))
                numbers[i] += 1
        batch = waiting.take(float(now))
        difference += paid(batch, "0") - paid(batch, "1")

        assert abs(difference) <= QUANTUM + 2 * largest


@settings(deadline=None)
@given(
    st.lists(st.integers(0, QUANTUM), min_size=50, max_size=50),
    st.integers(0, QUANTUM),
    st.booleans(),
)
def test_a_greedy_tenant_does_not_monopolise_the_batches(sizes, modest, shared):
    """Beside fifty losses of one tenant, another's lone job goes in one of any three batches."""
    waiting, since = BatchQueue(BatchLimits()), 0
    for i, size in enumerate(sizes):
        waiting.put(FakeJob(i, "m" if shared and i == 0 else i, size, tenant="greedy"), now=0.0)
    waiting.put(FakeJob("modest", "m", modest, tenant="modest"), now=1.0)
    for now in range(2, 60):
        batch = waiting.take(float(now))
        since = 0 if any(job.tenant == "modest" for job in batch) else since + 1
        for job in batch:
            waiting.put(job, float(now))

        assert since < 3
