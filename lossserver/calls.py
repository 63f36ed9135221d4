"""The calls of a stream that are not answered yet, each as service.py has one: let in, decoded,
computed, and ended with a status of its own.
"""

import asyncio
import functools
import math
from collections.abc import Callable

from lossserver import resident
from lossserver.account import Account
from lossserver.answer import Asker, answer, count_shed, give_up
from lossserver.begun import Begun
from lossserver.front import Front
from lossserver.gather import answer_into
from lossserver.outbox import Outbox
from lossserver.regions import Regions
from lossserver.told import let_go, told
from losswire import frame, streaming
from losswire.errors import DeadlineError, MessageError, OverloadedError
from losswire.frame import Parts
from losswire.status import to_status
from losswire.streaming import Called
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
        self._running: dict[int, _Call] = {}
        self._late: asyncio.TimerHandle | None = None
        self.count = 0
        self.bytes = 0

    def begin(self, called: Called) -> None:
        """Work on a call.

        Raises:
            MessageError: another has its id.
        """
        if called.id in self._running:
            raise MessageError("must be of no other call in flight", field="id", given=called.id)
        if (why := self._front.door.refusal(self._tenant, called.timeout)) is not None:
            self._refuse(called.id, why)
            return
        call = _Call(called, self._front)
        self._running[call.id] = call
        self.count += 1
        self.bytes += call.size
        call.work = Begun(self._run(call, called))
        if not call.work.ended and call.until < math.inf:
            self._watch(call.until)

    def _refuse(self, number: int, why: OverloadedError) -> None:
        """End a call before it has cost anything, a log line included: there may be thousands."""
        code, status = _refusal(str(why))
        self._front.metrics.shed("overloaded")
        self._front.metrics.called("", code)
        self.count += 1
        self._outbox.put(streaming.written_status(number, status), self._refused)

    def _refused(self) -> None:
        self.count -= 1
        self._changed()

    def cancel(self, number: int) -> None:
        """Nobody waits for that call any longer."""
        if (call := self._running.get(number)) is not None:
            call.late = False
            call.work.cancel()

    def end(self) -> None:
        """Nobody waits for any call any longer."""
        for number in list(self._running):
            self.cancel(number)
        if self._late is not None:
            self._late.cancel()

    async def _run(self, call: "_Call", called: Called) -> None:
        """One call, to what its client is told of it."""
        pool, account = self._front.pool, call.account
        try:
            reply = await self._answered(call, called)
        except asyncio.CancelledError as error:
            let_go(error)
            if not call.late:
                self._given_up(call)
                return
            if account.job is not None:
                pool.drop(account.job)
            code, said, written = _told(call.id, DeadlineError("the deadline passed"))
        except Exception as error:  # noqa: BLE001  (every call ends in a status)
            count_shed(error, account)
            code, said, written = _told(call.id, error)
        else:
            code, said, written = "OK", "", streaming.written_answer(call.id, reply)
        del self._running[call.id]
        self._outbox.put(written, functools.partial(self._gone, call))
        asyncio.get_running_loop().call_soon(account.close, code, said)

    async def _answered(self, call: "_Call", called: Called) -> Parts:
        front, place = self._front, call.place
        front.pool.arrived()
        front.admission.check()
        remaining = call.remaining()
        place.enter(call.size, remaining)
        await front.door.enter(self._tenant, remaining)
        try:
            parts = frame.read(called.request)
            room = self._regions.room(called.answer, parts) if called.answer else None
            if parts.elsewhere:
                find = functools.partial(self._regions.read, place)
                parts = resident.resolved(parts, front, self._tenant, place, find)
            asker = Asker(
                tenant=self._tenant,
                remaining=call.remaining(),
                place=place,
                account=call.account,
            )
            if room is not None:
                return await answer_into(room, parts, asker, front.pool)
            return await answer(parts, asker, front.pool)
        finally:
            front.door.leave(self._tenant)

    def _given_up(self, call: "_Call") -> None:
        give_up(call.account, self._front.pool)
        del self._running[call.id]
        self._gone(call)

    def _gone(self, call: "_Call") -> None:
        """A call takes up nothing any longer."""
        self.count -= 1
        self.bytes -= call.size
        call.place.end()
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
        for call in self._running.values():
            if call.until > now:
                later.append(call.until)
            elif not call.late:
                call.late = True
                overdue.append(call)
        for call in overdue:
            call.work.cancel()
        if later and (until := min(later)) < math.inf:
            self._watch(until)


class _Call:
    """One of them.

    Attributes:
        id: chosen by the client.
        size: bytes of its request.
        until: seconds of the loop's time after which nobody waits for it.
        place: what it takes up in the server.
        account: what is kept of it.
        work: what is done about it.
        late: that was ended as the time was over.
    """

    __slots__ = ("account", "id", "late", "place", "size", "until", "work")

    def __init__(self, called: Called, front: Front) -> None:
        self.id = called.id
        self.size = len(called.request)
        timeout = math.inf if called.timeout is None else called.timeout
        # What is no number leaves no time.
        self.until = asyncio.get_running_loop().time() + (timeout if timeout > 0 else 0.0)
        self.place = front.admission.begin()
        self.account = Account(metrics=front.metrics)
        self.work: Begun
        self.late = False

    def remaining(self) -> float | None:
        """Seconds until nobody waits for it; None is for ever."""
        if self.until == math.inf:
            return None
        return self.until - asyncio.get_running_loop().time()


@functools.lru_cache(maxsize=16)
def _refusal(why: str) -> tuple[str, bytes]:
    """Code and status of an overload."""
    return to_status(OverloadedError(why))


def _told(number: int, error: Exception) -> tuple[str, str, list[Buffer]]:
    """Code and text of what went wrong, and what a message that says so is joined of."""
    what = told(error)
    let_go(error)
    code, status = to_status(what)
    return code, str(what), streaming.written_status(number, status)
