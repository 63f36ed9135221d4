"""What every way into the server shares: who may enter, and how a call ends that went wrong."""

import asyncio
import time
from typing import Any, NoReturn

import grpc
from grpc.aio import ServicerContext

from lossserver.account import Account
from lossserver.admit import Admission, Limits
from lossserver.door import Door
from lossserver.metrics import Metrics
from lossserver.pool import Pool
from lossserver.receive import Receiving
from lossserver.told import let_go, told
from losswire.status import DETAILS, to_status

Context = ServicerContext[Any, Any]


class Front:
    """The front of a server.

    Attributes:
        pool: where jobs are computed.
        admission: who may enter.
        limits: what is accepted at most.
        metrics: where calls are counted.
        door: how many calls of a tenant are worked on at a time.
        receiving: when a message comes in.
    """

    def __init__(self, pool: Pool, admission: Admission, limits: Limits, metrics: Metrics) -> None:
        self.pool = pool
        self.admission = admission
        self.limits = limits
        self.metrics = metrics
        self.door = Door(time.monotonic)
        self.receiving = Receiving(limits)


def tenant_of(context: Context) -> str:
    """Who asks: the name that a caller's certificate proves, else its connection."""
    names = context.peer_identities()
    return next(iter(names)).decode(errors="replace") if names else context.peer()


async def abort(context: Context, error: Exception, account: Account | None = None) -> NoReturn:
    """End a call with the status of what went wrong."""
    what = told(error)
    let_go(error)
    code, details = to_status(what)
    if account is not None:
        account.close(code, str(what))
    try:
        await context.abort(grpc.StatusCode[code], str(what), ((DETAILS, details),))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # the caller has gone meanwhile
    raise AssertionError("abort always raises")
