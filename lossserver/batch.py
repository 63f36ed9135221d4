"""Which jobs go together, and when: the batching policy. fair.py says whose turn it is, fill.py what fits.

Rule 1: no clock, lock, thread or tensor in here. The caller says what time it
is (`now`, monotonic seconds), and a job says how big it is. So the tests of
this file need no patience.

Rule 2: only jobs of equal `key` share a batch.

Rule 3: a job is due once it has waited for company as long as its loss may, or
once it and its like fill a batch, or one of them went. The wait is counted from its own arrival and
never restarted by a later one. By default it is 0 and batching is natural:
whoever is there when the device is free goes, and company is what gathered
while the device was busy.

Rule 4: a batch begins with the job whose turn it is: of those due the lowest
priority, then fairly by tenant, then the most overdue. It goes whatever its
size, or a job larger than a batch would wait for ever. Others of its key join
in the same order, due or not, until all are in or the next has no room.

Rule 5: nobody starves. Each EIGHTH batch begins with the most overdue job of
all, whoever's it is. So a due job goes within EIGHTH x (n + 1) batches, where n
is how many were due before it.

Rule 6: where it can be predicted how long a batch takes, none is made so large
that a job in it comes too late; and a job that would be too late even alone is
not computed but given back by `late`.

To take a batch takes time in proportion to it and to the tenants that have jobs
due; all else takes the same time on average however many wait.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from itertools import takewhile
from typing import Any, Generic

from lossserver.fair import Turns
from lossserver.fill import Batch, BatchLimits, Cost, Foresight, Kind, Size, deadline_of
from lossserver.line import J, Line, Ticket

#: How many batches there are to one that begins with the most overdue job of all.
EIGHTH = 8

PRIORITIES = 3

__all__ = ["BatchLimits", "BatchQueue", "Cost"]


class BatchQueue(Generic[J]):
    """Jobs in, batches out.

    A job that awaits company stands aside. One that is due stands in three
    lines at once: that of all, its tenant's, and its key's.

    Attributes:
        size: of all that waits.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._waits = limits.waits()
        self.size = Size()
        self._tickets: dict[int, Ticket[J]] = {}
        self._kinds: dict[Hashable, Kind[J]] = {}
        # Those that wait equally long are due in the order in which they came.
        self._aside: dict[float, Line[J]] = {}
        self._line: Line[J] = OrderedDict()
        self._turns: tuple[Turns[J], ...] = tuple(Turns() for _ in range(PRIORITIES))
        self._late: list[J] = []
        self._batches = 0

    def put(self, job: J, now: float) -> None:
        """Add a job that arrived at `now`."""
        self._look(now)
        kind = self._kinds.get(job.key)
        if kind is None:
            kind = self._kinds[job.key] = Kind()
        kind.size.add(job)
        self.size.add(job)
        wait = self._waits.get(job.name, self._limits.max_wait)
        ticket = self._tickets[id(job)] = Ticket(job, wait, now + wait)
        if wait:
            self._stand_aside(ticket, kind)
            if kind.size.fills(self._limits):
                self._line_up(list(kind.patient), now)
        else:
            self._stand_in_line(ticket, kind)

    def drop(self, job: J) -> None:
        """Take a job out, if it still waits: nobody wants it any more."""
        ticket = self._tickets.get(id(job))
        if ticket is not None:
            self._remove(ticket)

    def hurry(self) -> None:
        """Wait for no more company: nobody else will come."""
        self._limits = replace(self._limits, max_wait=0.0, wait_of=())
        self._waits = {}
        self._line_up([ticket for line in self._aside.values() for ticket in line], -math.inf)

    def due_at(self) -> float | None:
        """When `take` will next give a batch; None while nothing waits."""
        if self._line:
            return next(iter(self._line)).due
        return min((next(iter(line)).due for line in self._aside.values()), default=None)

    def take(self, now: float, cost: Cost | None = None) -> list[J]:
        """The batch whose turn it is at `now`; empty if nothing is due.

        With `cost`, a job that cannot be in time is not in it: ask `late` for those.
        """
        self._look(now)
        foresight = Foresight(now, cost)
        while (first := self._first()) is not None:
            if not foresight.is_late(first.job):
                self._batches += 1
                return self._filled(first, foresight)
            # One is late, so others will be: look once at the next jobs of every tenant.
            for line in [line for turns in self._turns for line in turns.lines()]:
                while line and foresight.is_late((ticket := next(iter(line))).job):
                    self._shed(ticket)
        return []

    def late(self) -> list[J]:
        """The jobs that `take` found too late to be computed; each is told once."""
        late, self._late = self._late, []
        return late

    def __len__(self) -> int:
        return len(self._tickets)

    def _look(self, now: float) -> None:
        """Let those whose wait is over stand in line, the most overdue first."""
        if self._aside:
            lines = self._aside.values()
            over = [t for line in lines for t in takewhile(lambda one: one.due <= now, line)]
            self._line_up(over, now)

    def _first(self) -> Ticket[J] | None:
        """The job with which the next batch begins."""
        if self._batches % EIGHTH == EIGHTH - 1:
            return next(iter(self._line), None)
        turns = (one.next() for one in self._turns)
        return next((ticket for ticket in turns if ticket is not None), None)

    def _filled(self, first: Ticket[J], foresight: Foresight) -> list[J]:
        kind = self._kinds[first.job.key]
        batch = Batch(self._limits, foresight, first.job, kind.size.elements)
        self._go(first, batch)
        # Those who waited for company have it.
        self._line_up(list(kind.patient), foresight.now)
        lines = list(kind.lines.values())
        order = [self._rank(line, i) for i, line in enumerate(lines)]
        heapq.heapify(order)
        while order:
            i = order[0][-1]
            ticket = next(iter(lines[i]))
            end = batch.end_with(ticket.job)
            if end > batch.earliest or not batch.has_room_for(ticket.job):
                break
            if end <= deadline_of(ticket.job):
                self._go(ticket, batch)
            elif foresight.is_late(ticket.job):
                self._shed(ticket)
            else:
                heapq.heappop(order)  # left for the next batch, with those behind it
                continue
            if not lines[i]:
                heapq.heappop(order)
            elif len(order) > 1:
                heapq.heapreplace(order, self._rank(lines[i], i))
        return batch.jobs

    def _rank(self, line: Line[J], i: int) -> tuple[int, int, float, int]:
        first = next(iter(line))
        priority = first.job.priority
        return priority, self._turns[priority].round_of(first.job), first.due, i

    def _go(self, ticket: Ticket[J], batch: Batch[J]) -> None:
        batch.add(ticket.job)
        self._turns[ticket.job.priority].pay(ticket.job)
        self._remove(ticket)

    def _shed(self, ticket: Ticket[J]) -> None:
        self._late.append(ticket.job)
        self._remove(ticket)

    def _remove(self, ticket: Ticket[J]) -> None:
        job = ticket.job
        kind = self._kinds[job.key]
        del self._tickets[id(job)]
        if ticket.wait:
            self._step_forward(ticket, kind)
        else:
            del self._line[ticket]
            self._turns[job.priority].remove(ticket)
            kind.remove(ticket)
        kind.size.remove(job)
        self.size.remove(job)
        if not kind.size.jobs:
            del self._kinds[job.key]

    def _stand_aside(self, ticket: Ticket[J], kind: Kind[J]) -> None:
        kind.patient[ticket] = None
        self._aside.setdefault(ticket.wait, OrderedDict())[ticket] = None

    def _step_forward(self, ticket: Ticket[J], kind: Kind[J]) -> None:
        del kind.patient[ticket]
        line = self._aside[ticket.wait]
        del line[ticket]
        if not line:
            del self._aside[ticket.wait]

    def _line_up(self, tickets: list[Ticket[J]], now: float) -> None:
        """Let those that stood aside stand in line: they are due, at `now` at the latest."""
        for ticket in sorted(tickets, key=_due):
            kind = self._kinds[ticket.job.key]
            self._step_forward(ticket, kind)
            ticket.wait, ticket.due = 0.0, min(ticket.due, now)
            self._stand_in_line(ticket, kind)

    def _stand_in_line(self, ticket: Ticket[J], kind: Kind[J]) -> None:
        self._line[ticket] = None
        self._turns[ticket.job.priority].add(ticket)
        kind.add(ticket)


def _due(ticket: Ticket[Any]) -> float:
    return ticket.due
