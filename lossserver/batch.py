"""Which jobs go together, and when: the whole batching policy and nothing else.

Rule 1: no clock, lock, thread or tensor in here. The caller says what time it
is (`now`, monotonic seconds), and a job says how big it is. So the tests of
this file need no patience.

Rule 2: only jobs of equal `key` share a batch.

A key is due once its jobs together are a full batch, or its oldest has waited
`max_wait`, counted from its own arrival and never restarted by a later one.
With a `max_wait` of 0, the default, batching is natural: whoever is there when
the device is free goes, most overdue key first, and company is what gathered
while the device was busy.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What the policy must know of a job."""

    @property
    def key(self) -> Hashable:
        """Jobs of equal keys may go together."""

    @property
    def elements(self) -> int:
        """Its size."""


J = TypeVar("J", bound=Sized)


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """When a batch is full, and how long a job waits for company.

    Attributes:
        max_elements: elements of all inputs that fill a batch. A larger job goes alone.
        max_wait: seconds that a job waits for company when the device is free.
    """

    max_elements: int = 1 << 22
    max_wait: float = 0.0

    def __post_init__(self) -> None:
        if self.max_elements < 1:
            raise ValueError(f"max_elements must be at least 1; given {self.max_elements}")
        if not 0 <= self.max_wait < 60:
            raise ValueError(f"max_wait must be in [0, 60) seconds; given {self.max_wait}")


class BatchQueue(Generic[J]):
    """Jobs in, batches out."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waiting: dict[Hashable, _Waiting[J]] = {}

    def put(self, job: J, now: float) -> None:
        """Add a job that arrived at `now`."""
        self._waiting.setdefault(job.key, _Waiting()).add(job, now)

    def drop(self, job: J) -> None:
        """Take a job out, if it still waits: nobody wants it any more."""
        waiting = self._waiting.get(job.key)
        if waiting is not None and waiting.drop(job):
            del self._waiting[job.key]

    def hurry(self) -> None:
        """Wait for no more company: nobody else will come."""
        self._limits = replace(self._limits, max_wait=0.0)

    def due_at(self) -> float | None:
        """When `take` will next give a batch; None while nothing waits."""
        return min((key.due_at(self._limits) for key in self._waiting.values()), default=None)

    def take(self, now: float) -> list[J]:
        """The batch most overdue at `now`, oldest job first; empty if none is due."""
        due = self.due_at()
        if due is None or due > now:
            return []
        key = next(k for k, w in self._waiting.items() if w.due_at(self._limits) == due)
        batch = self._waiting[key].take(self._limits.max_elements)
        if not self._waiting[key].jobs:
            del self._waiting[key]
        return batch

    def __len__(self) -> int:
        return sum(len(waiting.jobs) for waiting in self._waiting.values())


class _Waiting(Generic[J]):
    """The jobs of one key, oldest first, with when each arrived."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[float, J]] = deque()
        self.elements = 0

    def add(self, job: J, now: float) -> None:
        self.jobs.append((now, job))
        self.elements += job.elements

    def drop(self, job: J) -> bool:
        """Whether nothing is left."""
        kept = deque(pair for pair in self.jobs if pair[1] is not job)
        if len(kept) < len(self.jobs):
            self.jobs = kept
            self.elements -= job.elements
        return not kept

    def due_at(self, limits: BatchLimits) -> float:
        oldest = self.jobs[0][0]
        return oldest if self.elements >= limits.max_elements else oldest + limits.max_wait

    def take(self, max_elements: int) -> list[J]:
        batch: list[J] = []
        room = max_elements
        # The first goes whatever its size, or a job larger than a batch would wait for ever.
        while self.jobs and (not batch or self.jobs[0][1].elements <= room):
            job = self.jobs.popleft()[1]
            batch.append(job)
            room -= job.elements
            self.elements -= job.elements
        return batch
