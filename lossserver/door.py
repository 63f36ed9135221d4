"""How many calls are worked on at a time, whose turn is next, and who had better not wait.

The batching policy is fair among the jobs that wait. But each call is read,
decoded and encoded besides, on one event loop, in the order in which gRPC hands
calls over. So no more calls are past the door than keep the server busy; the
rest wait before it, their messages unread, which costs next to nothing.

Tenants that wait take turns. While several are there, each has at most SHARE
calls past the door: behind fifty calls of one tenant another's single call would
wait for fifty. Who is alone has all the room there is.

A call that would wait for most of its time is refused before it has cost
anything. Else, once more calls come than can be answered, each would be answered
when nobody waits for it any longer.

On the event loop only; needs no lock.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from losswire.errors import OverloadedError

#: Calls of one tenant at a time, while others are there. Less, and nothing is left to batch; more,
#: and a lone call of another waits for all of them.
SHARE = 2

#: Seconds for which a tenant counts as there after its last call came: a trainer computes in between.
THERE = 0.05

#: Calls past the door: as many as are answered in so many seconds, but so many at least, and at most.
AHEAD = 0.1
LEAST = 16
MOST = 256

#: And so many beside, of tenants that have less than their share: calls whose messages do not come
#: may have all other places.
SPARE = 64

#: Share of its time that a call may spend before the door.
WAIT = 0.5

#: How slowly the time between two answers is learned: by one part in so many, at each.
SLOWLY = 64


class Door:
    """Lets calls in.

    Parameters:
        clock: monotonic seconds.
        most: calls of one tenant that may wait before the door while others are there.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most
        self._inside: dict[str, int] = {}
        self._calls = 0
        self._outside: dict[str, deque[asyncio.Future[None]]] = {}
        self._waiting = 0
        # Tenants that wait for nothing but room, in the order of their turns.
        self._ready: dict[str, None] = {}
        # The last to come, and the last of all others: enough to know who is not alone.
        self._last = ("", -math.inf)
        self._other = ("", -math.inf)
        self._left = -math.inf
        self._pace = 0.0

    async def enter(self, tenant: str, remaining: float | None = None) -> None:
        """Return as soon as it is the tenant's turn. Each that entered must leave.

        Parameters:
            tenant: whose call it is.
            remaining: seconds until nobody waits for it any longer; None is never.

        Raises:
            OverloadedError: it had better not wait.
        """
        self._came(tenant)
        if self._is_open(tenant):
            self._count(tenant)
        elif (why := self.refusal(tenant, remaining)) is not None:
            raise why
        else:
            await self._turn(tenant)

    def refusal(self, tenant: str, remaining: float | None) -> OverloadedError | None:
        """Why the next call of a tenant had better not wait; None if it may, or need not."""
        if self._is_open(tenant):
            return None
        if remaining is not None and self._wait_of(tenant) > WAIT * remaining:
            return OverloadedError("more calls wait than can be answered in time; try again")
        if len(self._outside.get(tenant, ())) >= self._most and not self.is_alone(tenant):
            return OverloadedError(
                f"while others call, at most {self._most} calls of one caller may wait; try again"
            )
        return None

    def leave(self, tenant: str) -> None:
        """A call of the tenant is done with; let in who may enter now."""
        self._learn()
        self._calls -= 1
        inside = self._inside[tenant] - 1
        if inside:
            self._inside[tenant] = inside
        else:
            del self._inside[tenant]
        if tenant in self._outside:
            self._ready.setdefault(tenant)
        self._let_in()

    def _came(self, tenant: str) -> None:
        if self._last[0] != tenant:
            self._other = self._last
        self._last = (tenant, self._clock())

    def _is_open(self, tenant: str) -> bool:
        room = tenant not in self._outside and self._has_room(tenant)
        return room and self._has_share(tenant)

    def _has_room(self, tenant: str) -> bool:
        spare = SPARE if self._inside.get(tenant, 0) < SHARE else 0
        return self._calls < self._room() + spare

    def _has_share(self, tenant: str) -> bool:
        return self._inside.get(tenant, 0) < SHARE or self.is_alone(tenant)

    def is_alone(self, tenant: str) -> bool:
        """Whether no other tenant has called lately."""
        other = self._other if self._last[0] == tenant else self._last
        return self._clock() - other[1] > THERE

    def _room(self) -> float:
        """Calls that may be past the door, but for the spare places."""
        return MOST if self._pace * MOST <= AHEAD else max(LEAST, AHEAD / self._pace)

    def _wait_of(self, tenant: str) -> float:
        """Seconds that the next call of a tenant will be there, as far as is known."""
        ahead = self._calls + self._waiting
        if self._outside:
            turns = len(self._outside.keys() | {tenant})
            ahead = min(ahead, self._calls + turns * len(self._outside.get(tenant, ())))
        return ahead * self._pace

    def _learn(self) -> None:
        """Learn how much time passes between two answers while there is work."""
        now = self._clock()
        if self._calls > 1:
            self._pace += (min(now - self._left, 1.0) - self._pace) / SLOWLY
        self._left = now

    def _count(self, tenant: str) -> None:
        if not self._calls:
            self._left = self._clock()
        self._calls += 1
        self._inside[tenant] = self._inside.get(tenant, 0) + 1

    async def _turn(self, tenant: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outside.setdefault(tenant, deque()).append(turn)
        self._waiting += 1
        if self._has_share(tenant):
            self._ready.setdefault(tenant)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(tenant, turn)
            else:
                self.leave(tenant)
            raise

    def _forget(self, tenant: str, turn: "asyncio.Future[None]") -> None:
        turns = self._outside.get(tenant)
        if turns is None or turn not in turns:
            return  # its turn had come meanwhile, and it was passed over
        turns.remove(turn)
        self._waiting -= 1
        if not turns:
            del self._outside[tenant]
            self._ready.pop(tenant, None)

    def _let_in(self) -> None:
        """Let in who may enter now, one of each tenant in turn."""
        turns = deque(self._ready)
        while turns:
            tenant = turns.popleft()
            if not self._has_share(tenant):
                del self._ready[tenant]
            elif self._has_room(tenant):
                del self._ready[tenant]
                self._admit(tenant)
                if tenant in self._ready:
                    turns.append(tenant)

    def _admit(self, tenant: str) -> None:
        """Let in the tenant's next call; if it has another, that is for its next turn."""
        turns = self._outside[tenant]
        turn = turns.popleft()
        self._waiting -= 1
        if turns:
            self._ready[tenant] = None
        else:
            del self._outside[tenant]
        if not turn.done():
            self._count(tenant)
            turn.set_result(None)
