"""What becomes of calls, counted. No clock and no socket here: the caller says what time it was.

Latency and status are those of the calls that were meant to start within the
window, and latency is counted from then: what a call waited before it could be
sent is part of it. Calls a second are those that were answered within the window.
"""

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from losswire.v1 import loss_pb2 as pb

_TOLD = pb.Timings.DESCRIPTOR.fields

#: Whatever the server tells of a call, by name; and what of it is seconds.
STAGES = tuple(one.name for one in _TOLD)
SECONDS = frozenset(one.name for one in _TOLD if one.cpp_type == one.CPPTYPE_DOUBLE)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time that is measured, in monotonic seconds: from `begin` to before `end`."""

    begin: float
    end: float

    def __contains__(self, moment: float) -> bool:
        return self.begin <= moment < self.end


@dataclass(kw_only=True)
class Outcomes:
    """What became of the calls of one kind.

    Attributes:
        latencies: seconds from meant to answered, of each call that was.
        statuses: calls by status.
        answered: calls answered within the window.
        up, down: bytes of the messages and replies of those.
        stages: sums of what the server told.
        told: calls of which it told.
    """

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    statuses: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    up: int = 0
    down: int = 0
    stages: list[float] = field(default_factory=lambda: [0.0] * len(STAGES))
    told: int = 0

    def ended(self, meant: float, ended: float, status: str, window: Window) -> None:
        """Count a call."""
        if meant in window:
            self.statuses[status] += 1
            if status == "OK":
                self.latencies.append(ended - meant)

    def replied(self, up: int, down: int, timings: pb.Timings | None) -> None:
        """Count a reply that came within the window."""
        self.answered += 1
        self.up += up
        self.down += down
        if timings is not None:
            self.told += 1
            for i, name in enumerate(STAGES):
                self.stages[i] += getattr(timings, name)

    def add(self, other: "Outcomes") -> None:
        """Count what another has counted."""
        self.latencies.extend(other.latencies)
        self.statuses.update(other.statuses)
        self.answered += other.answered
        self.up += other.up
        self.down += other.down
        self.told += other.told
        self.stages = [a + b for a, b in zip(self.stages, other.stages, strict=True)]


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Seconds from the start at which calls arrive, `rate` a second, each regardless of the last.

    A Poisson process; several with a part of the rate each make up one of the whole rate.
    """
    chance = random.Random(seed)  # noqa: S311  (nobody is to be kept from guessing it)
    moment = 0.0
    while True:
        moment += chance.expovariate(rate)
        yield moment
