"""One call of a method of its own, from let in to counted: what unary calls and those in pieces share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from lossserver.account import Account
from lossserver.admit import Place
from lossserver.answer import count_shed, give_up
from lossserver.front import Context, Front, abort, tenant_of
from lossserver.told import let_go

T = TypeVar("T")


async def admitted(
    front: Front, context: Context, work: Callable[[str, Place, Account], Awaitable[T]]
) -> T:
    """What `work` makes of a call that was let in, given its tenant, its place and its account.

    Its messages are read by `work`, so not before that.
    """
    account = Account(metrics=front.metrics)
    place = front.admission.begin()
    # gRPC keeps it longer than the call, so it must not hold the call's tensors.
    context.add_done_callback(place.end)  # type: ignore[arg-type]  # the stub's is sync gRPC's
    try:
        front.admission.check()
        tenant = tenant_of(context)
        await front.door.enter(tenant, context.time_remaining())
        try:
            made = await work(tenant, place, account)
        finally:
            front.door.leave(tenant)
        # After the reply has been handed to gRPC, who waits for it no longer waits for the log.
        asyncio.get_running_loop().call_soon(account.close, "OK")
    except asyncio.CancelledError as error:
        give_up(account, front.pool)
        let_go(error)
        raise
    except Exception as error:  # noqa: BLE001  (every call ends in a status)
        count_shed(error, account)
        await abort(context, error, account)
    return made
