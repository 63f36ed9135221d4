"""Whose turn it is, of several tenants that wait: the fair half of the batching policy.

Deficit round-robin by elements. In each round every tenant that waits may have
a QUANTUM more; a job goes in the round in which its tenant can pay for it. The
rounds in which nobody can are not gone through but skipped: a tenant can pay
for its next job in round (spent + price) / QUANTUM, rounded up. In one round the
most overdue goes first.

Company in a batch is paid for afterwards, by a debt. So of two tenants that wait
for one key neither is ever ahead by more than a quantum and its dearest job; of
two that wait for different keys, by what a batch holds besides. What goes out
of turn (rule 5 of batch.py) comes on top; it is a debt too, which the seven
batches between make good where they hold as much.

What a tenant has to its name is forgotten once it has nothing in line, so there
are never more tenants here than jobs.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic

from lossserver.line import J, Line, Sized, Ticket

#: Elements a round. The price of a job is at least as much: a batch of few elements takes about
#: as long as one of these, and else thousands of empty jobs would come before one of this size.
QUANTUM = 1 << 12


class Turns(Generic[J]):
    """The tenants that have due jobs of one priority."""

    def __init__(self) -> None:
        self._round = 0
        self._tenants: dict[Hashable, _Tenant[J]] = {}

    def add(self, ticket: Ticket[J]) -> None:
        """Let it stand in line. A tenant that is new begins in this round, with nothing spent."""
        tenant = self._tenants.get(ticket.job.tenant)
        if tenant is None:
            tenant = self._tenants[ticket.job.tenant] = _Tenant(self._round * QUANTUM)
        tenant.line[ticket] = None

    def remove(self, ticket: Ticket[J]) -> None:
        """Let it stand in line no longer."""
        line = self._tenants[ticket.job.tenant].line
        del line[ticket]
        if not line:
            del self._tenants[ticket.job.tenant]

    def lines(self) -> list[Line[J]]:
        """What each tenant has in line."""
        return [tenant.line for tenant in self._tenants.values()]

    def round_of(self, job: J) -> int:
        """The round in which its tenant can pay for it, if for nothing else before."""
        return max(self._round, self._tenants[job.tenant].round_of(job))

    def next(self) -> Ticket[J] | None:
        """Whose turn it is: of each tenant the first in line stands for it."""
        best: tuple[int, float] | None = None
        found: Ticket[J] | None = None
        for tenant in self._tenants.values():
            first = next(iter(tenant.line))
            rank = max(self._round, tenant.round_of(first.job)), first.due
            if best is None or rank < best:
                best, found = rank, first
        if best is not None:
            self._round = best[0]
        return found

    def pay(self, job: J) -> None:
        """Charge its tenant for a job that goes.

        More than a quantum of credit is not kept: it was saved up for a dear
        job that was given up since.
        """
        tenant = self._tenants[job.tenant]
        tenant.spent = max(tenant.spent + price(job), (self._round - 1) * QUANTUM)


class _Tenant(Generic[J]):
    """What a tenant has in line, and what it has spent."""

    __slots__ = ("line", "spent")

    def __init__(self, spent: int) -> None:
        self.line: Line[J] = OrderedDict()
        self.spent = spent

    def round_of(self, job: J) -> int:
        return -(-(self.spent + price(job)) // QUANTUM)


def price(job: Sized) -> int:
    """What a job costs its tenant, in elements."""
    return max(job.elements, QUANTUM)
