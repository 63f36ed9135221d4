"""What every way into the server shares: who may enter, and how a call ends that went wrong."""

import asyncio
import time
from collections import Counter
from typing import Any, NoReturn

import grpc
from grpc.aio import ServicerContext

from lossserver.account import Account
from lossserver.admit import Admission, Limits
from lossserver.awake import Awake
from lossserver.config import Residence, Sharing
from lossserver.direct import Direct
from lossserver.door import Door
from lossserver.held import Held
from lossserver.metrics import Metrics
from lossserver.pool import Pool
from lossserver.receive import Receiving
from lossserver.sharing import SharedMemory
from lossserver.told import let_go, told
from losswire.status import DETAILS, to_status

Context = ServicerContext[Any, Any]

#: What the names of all callers begin with that came by a Unix socket; and how much of what such a
#: caller says of itself counts.
UNIX = "unix:"
AGENT = 64

#: Of a server with which no tensor stays.
NOWHERE = Residence(max_resident_bytes=0)

#: Of a server that shares no memory.
NOTHING = Sharing(max_shared_bytes=0)


class Front:
    """The front of a server.

    Attributes:
        pool: where jobs are computed.
        admission: who may enter.
        limits: what is accepted at most.
        metrics: where calls are counted.
        door: how many calls of a tenant are worked on at a time.
        receiving: when a message comes in.
        held: tensors that stay.
        shared: memory that clients of this machine may share.
        streams: how many each connection has open.
        direct: connections over which pieces go without gRPC.
        awake: how long the event loop waits for calls without sleeping.
    """

    def __init__(
        self,
        pool: Pool,
        admission: Admission,
        limits: Limits,
        metrics: Metrics,
        residence: Residence = NOWHERE,
        sharing: Sharing = NOTHING,
        direct: Direct | None = None,
        stay_awake: float = 0.0,
    ) -> None:
        self.pool = pool
        self.admission = admission
        self.limits = limits
        self.metrics = metrics
        self.door = Door(time.monotonic, max(1, limits.max_calls_in_flight // 4))
        self.receiving = Receiving(limits)
        self.shared = SharedMemory(sharing, metrics)
        self.streams: Counter[str] = Counter()
        self.direct = direct or Direct(None)
        self.awake = Awake(stay_awake, lambda: admission.calls > 0)
        self.held = Held(residence, time.monotonic, metrics)


def tenant_of(context: Context) -> str:
    """Who asks: the name that a caller's certificate proves, else its connection."""
    names = context.peer_identities()
    return next(iter(names)).decode(errors="replace") if names else connection_of(context)


def connection_of(context: Context) -> str:
    """The connection that a call came over.

    gRPC has one name for all callers of a Unix socket. Ours have a secret of their own
    beside their program's name; others that have none are one.
    """
    peer = context.peer()
    if not peer.startswith(UNIX):
        return peer
    told = dict(context.invocation_metadata() or ())
    return f"{peer} {str(told.get('user-agent', ''))[:AGENT]}"


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
