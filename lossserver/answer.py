"""One call, from the parts of its message to those of its answer, whichever way they travel.

Who brings the parts (service.py, stream.py, large.py) has let the call in, and
sends what is made of them here.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lossserver.account import Account
from lossserver.admit import Place
from lossserver.decode import decode, opened
from lossserver.encode import encode
from lossserver.job import Job, Result
from lossserver.pool import Pool
from lossserver.tree import tensors
from lossserver.wishes import NO_WISHES, Wishes
from losswire.errors import DeadlineError, OverloadedError
from losswire.frame import Parts

#: Bytes from which they are copied off the event loop, which would otherwise answer nobody
#: meanwhile: 1 MiB is about 0.1 ms of copying.
LARGE = 1 << 20

#: And bytes of gradients that are rounded or thinned out: that takes some ten times as long.
WISHED = LARGE // 8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who waits for an answer.

    Attributes:
        tenant: the name that a caller's certificate proves, else its connection.
        remaining: seconds until nobody waits any longer; None is for ever.
        place: what the call takes up in the server.
        account: what is kept of it.
    """

    tenant: str
    remaining: float | None
    place: Place
    account: Account


async def whole(job: Job, pool: Pool) -> Result:
    """What becomes of a job that is computed as it is.

    Raises:
        Exception: what became of it instead.
    """
    pool.put(job)
    return await job.future


async def answer(
    parts: Parts,
    asker: Asker,
    pool: Pool,
    compute: Callable[[Job, Pool], Awaitable[Result]] = whole,
) -> Parts:
    """The answer to a call.

    Parameters:
        parts: the call's, all of its payloads among them.
        asker: who waits for it.
        pool: where it is computed.
        compute: how.

    Raises:
        Exception: whatever came between, to be told by `told`.
    """
    started = time.perf_counter()
    account, remaining = asker.account, asker.remaining
    deadline = None if remaining is None else time.monotonic() + remaining
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    seen = opened(parts)
    slow, known = seen.slow, seen.known
    if known is None:
        known = await aside(seen.outline, asker.place)
    if known.spread:
        asker.place.more(known.spread)
    seen = seen._replace(known=known)
    slow = slow or seen.copied + known.spread >= LARGE
    work = functools.partial(decode, seen, deadline, future, asker.tenant)
    job = await aside(work, asker.place) if slow else work()
    del parts, seen, work  # its tensors are the job's now
    account.job = job
    account.decode = time.perf_counter() - started
    result = account.result = await compute(job, pool)
    computed = time.perf_counter()
    pack = functools.partial(encode, result, account.decode, job)
    reply = await aside(pack, asker.place) if _is_slow(result, job.wishes) else pack()
    ended = time.perf_counter()
    account.encode, account.total = ended - computed, ended - started
    return reply


def give_up(account: Account, pool: Pool) -> None:
    """A call was cancelled: forget it."""
    waits = account.job is None or pool.drop(account.job)
    account.metrics.cancelled("waiting" if waits else "computing")
    account.close("CANCELLED")


def count_shed(error: Exception, account: Account) -> None:
    """Count what was refused at the door; what is shed later is counted there."""
    if isinstance(error, OverloadedError):
        account.metrics.shed("overloaded")
    elif isinstance(error, DeadlineError) and account.job is None:
        account.metrics.shed("deadline_passed")


def _is_slow(result: Result, wishes: Wishes) -> bool:
    """Whether it takes long to encode: what is to be written as it lies is not touched."""
    computed = result.computed
    found = tensors([dict(computed.losses), dict(computed.grads)])
    if wishes != NO_WISHES:
        return sum(one.nbytes for one in found) >= WISHED
    return sum(one.nbytes for one in found if not one.is_contiguous()) >= LARGE


async def aside(work: Callable[[], T], place: Place) -> T:
    """`work()` in a thread, which holds the call's place until it is done, also if nobody waits."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    place.hold()
    working.add_done_callback(place.end)
    working.add_done_callback(_seen)
    return await asyncio.shield(working)


def _seen(work: "asyncio.Future[Any]") -> None:
    """Take note of what a thread raised: asyncio would log what nobody has waited for."""
    if not work.cancelled():
        work.exception()
