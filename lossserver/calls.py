"""The calls of a stream that are not answered yet, each as service.py has one: let in, decoded,
computed, and ended with a status of its own.

Those of one message that differ in their numbers alone are worked on as one (bundle.py),
at once if that goes well. Whatever does not is worked on again, each call by itself.
"""

import asyncio
import functools
import math
from collections.abc import Callable

from lossserver import resident
from lossserver.answer import Asker, answer, count_shed, give_up
from lossserver.begun import Begun
from lossserver.bundle import alike, answered, most
from lossserver.front import Front
from lossserver.gather import answer_into
from lossserver.outbox import Outbox
from lossserver.outline import Outline
from lossserver.regions import Regions
from lossserver.told import let_go, statuses
from lossserver.work import Work
from losswire import frame, saying
from losswire.errors import DeadlineError, MessageError, OverloadedError
from losswire.frame import Parts
from losswire.runs import Run
from losswire.status import to_status
from losswire.streaming import Called, singly
from losswire.tensor import Buffer


class Calls:
    """What is worked on for one stream, and what waits to be written for it. On the event loop only.

    Parameters:
        front: what all ways in share.
        tenant: whose stream it is.
        regions: of the stream.
        outbox: where answers go.
        changed: called whenever one has ended.

    Attributes:
        count, bytes: calls that are not answered, and of their requests.
    """

    def __init__(
        self,
        front: Front,
        tenant: str,
        regions: Regions,
        outbox: Outbox,
        changed: Callable[[], None],
    ) -> None:
        self._front = front
        self._tenant = tenant
        self._regions = regions
        self._outbox = outbox
        self._changed = changed
        self._running: dict[int, Work] = {}
        self._late: asyncio.TimerHandle | None = None
        self.count = 0
        self.bytes = 0

    def begin(self, calls: list[Called] | Run) -> None:
        """Work on calls that came together; several of a run are worked on as one, if they may be.

        Raises:
            MessageError: two in flight have one id.
        """
        if isinstance(calls, Run):
            said = alike(calls)
            size = 1 if said is None else most(said, alone=self._front.door.is_alone(self._tenant))
            if said is not None and min(size, len(calls.ids)) > 1:
                self._begin_run(calls, said, size)
                return
            calls = singly(calls)
        # So that the first waits for the last, and all are computed together.
        for _ in calls:
            self._front.pool.expect()
        for called in calls:
            self._begin(called)

    def _begin_run(self, run: Run, said: Outline, size: int) -> None:
        """Work on so many at a time as one."""
        starts = range(0, len(run.ids), size)
        for _ in starts:
            self._front.pool.expect()
        for start in starts:
            part = run.part(start, start + size)
            if len(part.ids) == 1:
                self._begin(singly(part)[0])
            else:
                self._begin(part, said)
                self._outbox.flush()  # which then is on its way while the next ones are computed

    def _begin(self, asked: Called | Run, said: Outline | None = None) -> None:
        """Work on a call, or on several that ask for what is said."""
        ids = asked.ids if isinstance(asked, Run) else (asked.id,)
        if len(set(ids)) < len(ids) or not self._running.keys().isdisjoint(ids):
            given = next(i for i in ids if i in self._running or [*ids].count(i) > 1)
            raise MessageError("must be of no other call in flight", field="id", given=given)
        if (why := self._front.door.refusal(self._tenant, asked.timeout)) is not None:
            for number in ids:
                self._refuse(number, why)
            return
        work = Work(asked, self._front)
        self._running.update(dict.fromkeys(ids, work))
        self.count += len(ids)
        self.bytes += work.size
        work.work = Begun(self._run(work, asked, said))
        if not work.work.ended and work.until < math.inf:
            self._watch(work.until)

    def _refuse(self, number: int, why: OverloadedError) -> None:
        """End a call before it has cost anything, a log line included: there may be thousands."""
        code, status = _refusal(str(why))
        self._front.metrics.shed("overloaded")
        self._front.metrics.called("", code)
        self.count += 1
        self._outbox.put(saying.status(number, status), self._refused)

    def _refused(self) -> None:
        self.count -= 1
        self._changed()

    def cancel(self, number: int) -> None:
        """Nobody waits for that call any longer. With others that are worked on as one it is answered."""
        if (work := self._running.get(number)) is None:
            return
        work.wanted.discard(number)
        if not work.wanted:
            work.late = False
            work.work.cancel()

    def end(self) -> None:
        """Nobody waits for any call any longer."""
        for number in list(self._running):
            self.cancel(number)
        if self._late is not None:
            self._late.cancel()

    async def _run(self, work: Work, asked: Called | Run, said: Outline | None) -> None:
        """One call, or several at once, to what their client is told of it."""
        pool, account = self._front.pool, work.account
        try:
            written = await self._answered(work, asked, said)
            code, why = "OK", ""
        except asyncio.CancelledError as error:
            let_go(error)
            if not work.late:
                self._given_up(work)
                return
            if account.job is not None:
                pool.drop(account.job)
            code, why, written = statuses(work.ids, DeadlineError("the deadline passed"))
        except Exception as error:  # noqa: BLE001  (every call ends in a status)
            if isinstance(asked, Run):
                let_go(error)
                self._begin_apart(work, asked)
                return
            count_shed(error, account)
            code, why, written = statuses(work.ids, error)
        self._forget(work)
        self._outbox.put(written, functools.partial(self._gone, work))
        asyncio.get_running_loop().call_soon(account.close, code, why)

    async def _answered(
        self, work: Work, asked: Called | Run, said: Outline | None
    ) -> list[Buffer]:
        front, place = self._front, work.place
        front.pool.arrived()
        front.admission.check()
        remaining = work.remaining()
        place.enter(work.size, remaining)
        await front.door.enter(self._tenant, remaining)
        try:
            asker = Asker(
                tenant=self._tenant, remaining=work.remaining(), place=place, account=work.account
            )
            if isinstance(asked, Run):
                assert said is not None  # noqa: S101  (for mypy)
                return await answered(said, asked, asker, front.pool)
            return saying.answer(asked.id, await self._reply(asked, asker))
        finally:
            front.door.leave(self._tenant)

    async def _reply(self, called: Called, asker: Asker) -> Parts:
        front, place = self._front, asker.place
        request = called.request
        parts = request if isinstance(request, Parts) else frame.read(request)
        room = self._regions.room(called.answer, parts) if called.answer else None
        if parts.elsewhere:
            find = functools.partial(self._regions.read, place)
            parts = resident.resolved(parts, front, self._tenant, place, find)
        if room is not None:
            return await answer_into(room, parts, asker, front.pool)
        return await answer(parts, asker, front.pool)

    def _begin_apart(self, work: Work, run: Run) -> None:
        """Work on calls one by one that were not to be had as one."""
        self._forget(work)
        self._gone(work)
        remaining = work.remaining()
        calls = [one._replace(timeout=remaining) for one in singly(run) if one.id in work.wanted]
        self.begin(calls)

    def _given_up(self, work: Work) -> None:
        give_up(work.account, self._front.pool)
        self._forget(work)
        self._gone(work)

    def _forget(self, work: Work) -> None:
        for number in work.ids:
            del self._running[number]

    def _gone(self, work: Work) -> None:
        """Calls take up nothing any longer."""
        self.count -= len(work.ids)
        self.bytes -= work.size
        work.place.end()
        self._changed()

    def _watch(self, until: float) -> None:
        """See to it that nobody who has stopped to wait at that time is still worked for."""
        if self._late is not None:
            if self._late.when() <= until:
                return
            self._late.cancel()
        self._late = asyncio.get_running_loop().call_at(until, self._end_late)

    def _end_late(self) -> None:
        self._late = None
        now = asyncio.get_running_loop().time()
        later, overdue = [], []
        for work in self._running.values():
            if work.until > now:
                later.append(work.until)
            elif not work.late:
                work.late = True
                overdue.append(work)
        for work in overdue:
            work.work.cancel()
        if later and (until := min(later)) < math.inf:
            self._watch(until)


@functools.lru_cache(maxsize=16)
def _refusal(why: str) -> tuple[str, bytes]:
    """Code and status of an overload."""
    return to_status(OverloadedError(why))
