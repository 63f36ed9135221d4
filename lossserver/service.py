"""The servicer: a few lines a call, and the one place where an exception becomes a status."""

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn, TypeVar

import grpc
from grpc.aio import ServicerContext

import lossserver
from lossserver.account import Account
from lossserver.admit import Admission, Limits, Place
from lossserver.card import catalogue
from lossserver.decode import decode, opened
from lossserver.door import Door
from lossserver.encode import encode
from lossserver.faults import is_full, out_of_memory
from lossserver.job import Result
from lossserver.metrics import Metrics
from lossserver.outline import refused
from lossserver.pool import Pool
from lossserver.receive import Receiving
from lossserver.registry import RefusedError
from lossserver.tree import tensors
from losswire.errors import (
    DeadlineError,
    InternalError,
    LossError,
    NotServedError,
    OverloadedError,
)
from losswire.status import DETAILS, to_status
from losswire.v1 import loss_pb2 as pb

log = logging.getLogger("lossserver")

NAME = "losswire.v1.LossService"

#: Bytes from which a message is decoded and encoded off the event loop, which would otherwise
#: answer nobody while it copies: 1 MiB is about 0.1 ms of copying.
LARGE = 1 << 20

Context = ServicerContext[Any, Any]

T = TypeVar("T")

#: Of unary and streaming methods alike; grpcio's own class takes no type parameters at run time.
MethodHandler = Any


class LossService:
    """What a LossService answers.

    Parameters:
        pool: where jobs are computed.
        admission: who may enter.
        limits: what `GetServer` tells of them.
        metrics: where calls are counted.
    """

    def __init__(self, pool: Pool, admission: Admission, limits: Limits, metrics: Metrics) -> None:
        self._pool = pool
        self._admission = admission
        self._door = Door(time.monotonic)
        self._receiving = Receiving(limits)
        self._limits = limits
        self._metrics = metrics
        metrics.calls_in_flight.watch(lambda: admission.calls)
        metrics.bytes_in_flight.watch(lambda: admission.bytes)

    async def compute(self, _: object, context: Context) -> bytes:
        """One call, from bytes to bytes. Its message is read here, not before the call is let in."""
        account = Account(metrics=self._metrics)
        place = self._admission.begin()
        # gRPC keeps it longer than the call, so it must not hold the call's tensors.
        context.add_done_callback(place.end)  # type: ignore[arg-type]  # the stub's is sync gRPC's
        try:
            self._admission.check()
            peer = context.peer()
            await self._door.enter(peer)
            try:
                reply = await self._answer(context, peer, place, account)
            finally:
                self._door.leave(peer)
            # After the reply has been handed to gRPC, who waits for it no longer waits for the log.
            asyncio.get_running_loop().call_soon(account.close, "OK")
        except asyncio.CancelledError as error:
            self._cancelled(account)
            _let_go(error)
            raise
        except Exception as error:  # noqa: BLE001  (every call ends in a status)
            self._count_shed(error, account)
            await _abort(context, error, account)
        return reply

    async def _answer(self, context: Context, peer: str, place: Place, account: Account) -> bytes:
        message = await self._receiving.message(context.read, peer)
        self._pool.arrived()
        started = time.perf_counter()
        remaining = context.time_remaining()
        place.enter(len(message), remaining)
        deadline = None if remaining is None else time.monotonic() + remaining
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        parts = opened(message)
        aside = len(message) >= LARGE or parts.slow
        tenant = _tenant(context, peer)
        work = functools.partial(decode, parts, deadline, future, tenant)
        job = await _aside(work, place) if aside else work()
        del message, parts, work  # its tensors are the job's now
        account.job = job
        account.decode = time.perf_counter() - started
        self._pool.put(job)
        result = account.result = await future
        computed = time.perf_counter()
        pack = functools.partial(encode, result, account.decode)
        reply = await _aside(pack, place) if _bytes_of(result) >= LARGE else pack()
        ended = time.perf_counter()
        account.encode, account.total = ended - computed, ended - started
        return reply

    def _cancelled(self, account: Account) -> None:
        waits = account.job is None or self._pool.drop(account.job)
        self._metrics.cancelled("waiting" if waits else "computing")
        account.close("CANCELLED")

    def _count_shed(self, error: Exception, account: Account) -> None:
        """Count what was refused at the door; what is shed later is counted there."""
        if isinstance(error, OverloadedError):
            self._metrics.shed("overloaded")
        elif isinstance(error, DeadlineError) and account.job is None:
            self._metrics.shed("deadline_passed")

    async def not_served(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        """What a later version will serve."""
        await _abort(
            context, NotServedError("streams and pieces are not served yet; send Compute"), None
        )
        yield b""

    async def list_losses(self, _: object, __: Context) -> bytes:
        """The catalogue."""
        return catalogue().SerializeToString()

    async def get_server(self, _: object, __: Context) -> bytes:
        """What this server is and accepts."""
        limits = pb.Limits(
            max_message_bytes=self._limits.max_message_bytes,
            max_bytes_in_flight=self._limits.max_bytes_in_flight,
            max_calls_in_flight=self._limits.max_calls_in_flight,
        )
        return pb.GetServerResponse(
            version=lossserver.__version__,
            devices=[str(device) for device in self._pool.devices],
            planes=["inline"],
            limits=limits,
        ).SerializeToString()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a gRPC server. Messages stay bytes: what cannot be read is ours to say."""
        # A caller sees no difference; but a message of a unary call is here before we are asked.
        unary: Any = grpc.stream_unary_rpc_method_handler
        stream: Any = grpc.stream_stream_rpc_method_handler(self.not_served)
        return _Handler(
            {
                "Compute": unary(self.compute),
                "ComputeStream": stream,
                "ComputeLarge": stream,
                # There is nothing in these requests to be read.
                "ListLosses": unary(self.list_losses),
                "GetServer": unary(self.get_server),
            },
            self._pool.expect,
        )


class _Handler(grpc.GenericRpcHandler):
    """Finds a method's handler, and tells of each Compute call that was accepted."""

    def __init__(self, methods: Mapping[str, MethodHandler], expect: Callable[[], None]) -> None:
        self._methods = {f"/{NAME}/{name}": handler for name, handler in methods.items()}
        self._expect = expect

    def service(self, details: grpc.HandlerCallDetails) -> MethodHandler:
        """The handler of a call that has been accepted and whose message is to come."""
        if details.method == f"/{NAME}/Compute":
            self._expect()
        return self._methods.get(details.method)


def _tenant(context: Context, peer: str) -> str:
    """Who asks: the name that a caller's certificate proves, else its connection."""
    names = context.peer_identities()
    return next(iter(names)).decode(errors="replace") if names else peer


def _bytes_of(result: Result) -> int:
    computed = result.computed
    return sum(t.nbytes for t in tensors([dict(computed.losses), dict(computed.grads)]))


async def _aside(work: Callable[[], T], place: Place) -> T:
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


async def _abort(context: Context, error: Exception, account: Account | None) -> NoReturn:
    told = _told(error)
    _let_go(error)
    code, details = to_status(told)
    if account is not None:
        account.close(code, str(told))
    try:
        await context.abort(grpc.StatusCode[code], str(told), ((DETAILS, details),))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # the caller has gone meanwhile
    raise AssertionError("abort always raises")


def _let_go(error: BaseException | None) -> None:
    """Take the frames out of an exception: gRPC keeps it for a while, and they hold the call's bytes."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _told(error: Exception) -> LossError:
    """What the caller is told of an exception: never a traceback, never an unknown text."""
    if isinstance(error, LossError):
        return error
    if isinstance(error, RefusedError):
        return refused(error)
    if is_full(error):
        return out_of_memory(error)
    request = uuid.uuid4().hex[:12]
    log.error("request %s", request, exc_info=error)
    return InternalError(f"the server failed; its log has the details under request {request}")
