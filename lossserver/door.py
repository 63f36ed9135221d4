"""How many calls of one tenant are worked on at a time, while another is there as well.

The batching policy is fair among the jobs that wait. But each call is read,
decoded and encoded besides, on one event loop, first come first served: behind
fifty calls of one tenant another's single call would wait for fifty. So while
several tenants are there, each has at most SHARE calls past the door; the rest
wait before it, their messages unread, which costs next to nothing. Who is alone
is not held up.

On the event loop only; needs no lock.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

#: Calls of one tenant at a time, while others are there. Less, and nothing is left to batch; more,
#: and a lone call of another waits for all of them.
SHARE = 3

#: Seconds for which a tenant counts as there after its last call came: a trainer computes in between.
THERE = 0.05


class Door:
    """Lets calls in.

    Parameters:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._inside: dict[str, int] = {}
        self._outside: dict[str, deque[asyncio.Future[None]]] = {}
        # The last to come, and the last of all others: enough to know who is not alone.
        self._last = ("", -math.inf)
        self._other = ("", -math.inf)

    async def enter(self, tenant: str) -> None:
        """Return as soon as it is the tenant's turn. Each that entered must leave."""
        self._came(tenant)
        if self._may_enter(tenant):
            self._count(tenant)
        else:
            await self._turn(tenant)

    def leave(self, tenant: str) -> None:
        """A call of the tenant is done with; let in who may enter now."""
        inside = self._inside[tenant] - 1
        if inside:
            self._inside[tenant] = inside
        else:
            del self._inside[tenant]
        self._let_in(tenant)

    def _came(self, tenant: str) -> None:
        if self._last[0] != tenant:
            self._other = self._last
        self._last = (tenant, self._clock())

    def _may_enter(self, tenant: str) -> bool:
        if self._inside.get(tenant, 0) < SHARE:
            return True
        other = self._other if self._last[0] == tenant else self._last
        return self._clock() - other[1] > THERE and tenant not in self._outside

    def _count(self, tenant: str) -> None:
        self._inside[tenant] = self._inside.get(tenant, 0) + 1

    async def _turn(self, tenant: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outside.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(tenant)
            raise

    def _let_in(self, tenant: str) -> None:
        """Let in who of a tenant may enter now. Whoever waits has others of its own inside."""
        waiting = self._outside.pop(tenant, None)
        while waiting and (waiting[0].done() or self._may_enter(tenant)):
            turn = waiting.popleft()
            if not turn.done():
                self._count(tenant)
                turn.set_result(None)
        if waiting:
            self._outside[tenant] = waiting
