"""What fits into a batch: by its size, and by the time until somebody in it would be too late."""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic

from lossserver.line import J, Line, Sized, Ticket

#: Predicts the seconds that a batch of a pace with so many elements takes; more take no less.
Cost = Callable[[Hashable, int], float]


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """When a batch is full, and how long a job waits for company.

    Attributes:
        max_elements: elements of all inputs that fill a batch. A larger job goes alone.
        max_bytes: bytes, as predicted from what its jobs sent, that computing a batch may take.
            A larger job goes alone.
        max_jobs: jobs that fill a batch.
        max_seconds: seconds that a batch of several may take, as predicted. A larger one saves
            nothing more, and whoever comes next waits for it.
        max_wait: seconds that a job waits for company when the device is free.
        wait_of: losses that wait otherwise: "FocalLoss=0.002" waits 0.002 seconds.
    """

    max_elements: int = 1 << 22
    max_bytes: int = 1 << 30
    max_jobs: int = 1024
    max_seconds: float = 0.01
    max_wait: float = 0.0
    wait_of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_elements", "max_bytes", "max_jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; given {getattr(self, name)}")
        if not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be above 0; given {self.max_seconds}")
        if not 0 <= self.max_wait < 60:
            raise ValueError(f"max_wait must be in [0, 60) seconds; given {self.max_wait}")
        self.waits()

    def waits(self) -> Mapping[str, float]:
        """The seconds of each loss that has its own."""
        return dict(map(_wait_of, self.wait_of))


def _wait_of(entry: str) -> tuple[str, float]:
    name, _, wait = entry.partition("=")
    try:
        seconds = float(wait)
    except ValueError:
        seconds = math.nan
    if not name or not 0 <= seconds < 60:
        raise ValueError(f'wait_of must be LOSS=SECONDS in [0, 60); given "{entry}"')
    return name, seconds


class Size:
    """How large jobs are together."""

    __slots__ = ("bytes", "elements", "jobs")

    def __init__(self) -> None:
        self.elements = self.bytes = self.jobs = 0

    def add(self, job: Sized) -> None:
        """Count a job in."""
        self.elements += job.elements
        self.bytes += job.bytes
        self.jobs += 1

    def remove(self, job: Sized) -> None:
        """Count a job out."""
        self.elements -= job.elements
        self.bytes -= job.bytes
        self.jobs -= 1

    def fills(self, limits: BatchLimits) -> bool:
        """Whether no more is needed for a batch."""
        return (
            self.elements >= limits.max_elements
            or self.bytes >= limits.max_bytes
            or self.jobs >= limits.max_jobs
        )

    def has_room_for(self, job: Sized, limits: BatchLimits) -> bool:
        """Whether they are a batch still, if the job is added."""
        return (
            self.elements + job.elements <= limits.max_elements
            and self.bytes + job.bytes <= limits.max_bytes
            and self.jobs < limits.max_jobs
        )


class Kind(Generic[J]):
    """The jobs of one key: those in line, by priority and tenant, and those that await company."""

    __slots__ = ("lines", "patient", "size")

    def __init__(self) -> None:
        self.size = Size()
        self.patient: Line[J] = OrderedDict()
        self.lines: dict[tuple[int, Hashable], Line[J]] = {}

    def add(self, ticket: Ticket[J]) -> None:
        """Let it stand in line."""
        place = ticket.job.priority, ticket.job.tenant
        line = self.lines.get(place)
        if line is None:
            line = self.lines[place] = OrderedDict()
        line[ticket] = None

    def remove(self, ticket: Ticket[J]) -> None:
        """Let it stand in line no longer."""
        place = ticket.job.priority, ticket.job.tenant
        line = self.lines[place]
        del line[ticket]
        if not line:
            del self.lines[place]


class Foresight:
    """What can be said at a moment about when a batch would end."""

    def __init__(self, now: float, cost: Cost | None) -> None:
        self.now = now
        self._cost = cost

    def end(self, job: Sized, elements: int) -> float:
        """When a batch would end that has the job in it and so many elements. Ages ago, if unknown."""
        return -math.inf if self._cost is None else self.now + self._cost(job.pace, elements)

    def is_late(self, job: Sized) -> bool:
        """Whether a job would be too late even alone."""
        deadline = deadline_of(job)
        return deadline < math.inf and self.end(job, job.elements) > deadline


class Batch(Generic[J]):
    """A batch that is being filled.

    Attributes:
        jobs: what is in it.
        earliest: when it must end, for the sake of those in it, and of those who come next.
    """

    def __init__(self, limits: BatchLimits, foresight: Foresight, first: J, waiting: int) -> None:
        self.jobs: list[J] = []
        self.earliest = foresight.now + limits.max_seconds
        self._size = Size()
        self._limits = limits
        self._foresight = foresight
        # It cannot end later, so whoever can wait till then needs no prediction of its own.
        self._latest = foresight.end(first, max(first.elements, min(waiting, limits.max_elements)))

    def add(self, job: J) -> None:
        """Put a job in."""
        self.jobs.append(job)
        self._size.add(job)
        self.earliest = min(self.earliest, deadline_of(job))

    def has_room_for(self, job: J) -> bool:
        """Whether it fits by its size."""
        return self._size.has_room_for(job, self._limits)

    def end_with(self, job: J) -> float:
        """When it would end with the job in it, at the latest."""
        if self._latest <= min(self.earliest, deadline_of(job)):
            return self._latest
        return self._foresight.end(job, self._size.elements + job.elements)


def deadline_of(job: Sized) -> float:
    """Its deadline; infinity if it has none."""
    return math.inf if job.deadline is None else job.deadline
