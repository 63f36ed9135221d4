"""The servicer: a few lines a call, and the one place where an exception becomes a status."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import grpc
import torch
from grpc.aio import ServicerContext

import lossserver
from lossserver.admit import Admission, Limits
from lossserver.card import catalogue
from lossserver.decode import decode, refused, slow
from lossserver.encode import encode
from lossserver.job import Job, Result
from lossserver.registry import RefusedError
from lossserver.tree import tensors
from lossserver.worker import Worker
from losswire.errors import InternalError, LossError, NotServedError, OutOfMemoryError
from losswire.status import DETAILS, to_status
from losswire.v1 import loss_pb2 as pb

log = logging.getLogger("lossserver")

NAME = "losswire.v1.LossService"

#: Bytes from which a message is decoded and encoded off the event loop, which would otherwise
#: answer nobody while it copies: 1 MiB is about 0.1 ms of copying.
LARGE = 1 << 20

#: How torch says that the CPU's memory is full; it has no class for that.
CPU_FULL = "DefaultCPUAllocator: "

Context = ServicerContext[Any, Any]

#: Of unary and streaming methods alike; grpcio's own class takes no type parameters at run time.
MethodHandler = Any


class LossService:
    """What a LossService answers.

    Parameters:
        worker: where jobs are computed.
        admission: who may enter.
        limits: what `GetServer` tells of them.
    """

    def __init__(self, worker: Worker, admission: Admission, limits: Limits) -> None:
        self._worker = worker
        self._admission = admission
        self._limits = limits

    async def compute(self, message: bytes, context: Context) -> bytes:
        """One call, from bytes to bytes."""
        self._worker.arrived()
        self._admission.opened()
        context.add_done_callback(self._ended)  # type: ignore[arg-type]  # the stub's is sync gRPC's
        remaining = context.time_remaining()
        call = _LogLine()
        try:
            with self._admission.enter(len(message), remaining):
                started = time.perf_counter()
                deadline = None if remaining is None else time.monotonic() + remaining
                future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
                aside = len(message) >= LARGE or slow(message)
                call.job = await _off_loop(aside, decode, message, deadline, future)
                decoded = time.perf_counter() - started
                self._worker.put(call.job)
                call.result = await future
                aside = _bytes_of(call.result) >= LARGE
                reply: bytes = await _off_loop(aside, encode, call.result, decoded)
            # After the reply has been handed to gRPC, who waits for it no longer waits for the log.
            asyncio.get_running_loop().call_soon(call.write, "OK")
        except asyncio.CancelledError:
            if call.job is not None:
                self._worker.drop(call.job)
            call.write("CANCELLED")
            raise
        except Exception as error:  # noqa: BLE001  (every call ends in a status)
            await _abort(context, error, call)
        return reply

    def _ended(self, *_: Any, **__: Any) -> None:
        self._admission.ended()

    async def not_served(self, _: Any, context: Context) -> AsyncIterator[bytes]:
        """What a later version will serve."""
        await _abort(
            context, NotServedError("streams and pieces are not served yet; send Compute"), None
        )
        yield b""

    async def list_losses(self, _: bytes, __: Context) -> bytes:
        """The catalogue."""
        return catalogue().SerializeToString()

    async def get_server(self, _: bytes, __: Context) -> bytes:
        """What this server is and accepts."""
        limits = pb.Limits(
            max_message_bytes=self._limits.max_message_bytes,
            max_bytes_in_flight=self._limits.max_bytes_in_flight,
            max_calls_in_flight=self._limits.max_calls_in_flight,
        )
        return pb.GetServerResponse(
            version=lossserver.__version__,
            devices=[str(self._worker.device)],
            planes=["inline"],
            limits=limits,
        ).SerializeToString()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a gRPC server. Messages stay bytes: what cannot be read is ours to say."""
        stream: Any = grpc.stream_stream_rpc_method_handler(self.not_served)
        return _Handler(
            {
                "Compute": grpc.unary_unary_rpc_method_handler(self.compute),
                "ComputeStream": stream,
                "ComputeLarge": stream,
                "ListLosses": grpc.unary_unary_rpc_method_handler(self.list_losses),
                "GetServer": grpc.unary_unary_rpc_method_handler(self.get_server),
            },
            self._worker.expect,
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


class _LogLine:
    """What the one log line of a call says."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.result: Result | None = None

    def write(self, status: str, reason: str = "") -> None:
        """Write it."""
        parts = ["compute"]
        if self.job is not None:
            parts.append(f"loss={self.job.name} elements={self.job.elements}")
        if self.result is not None:
            done = self.result
            parts.append(f"batch={done.batch} wait={done.queue:.4f} compute={done.compute:.4f}")
        parts.append(f"status={status}")
        if reason:
            parts.append(f"reason={reason!r}")
        log.info(" ".join(parts))


def _bytes_of(result: Result) -> int:
    computed = result.computed
    return sum(t.nbytes for t in tensors([dict(computed.losses), dict(computed.grads)]))


async def _off_loop(aside: bool, work: Callable[..., Any], *args: Any) -> Any:
    """`work(*args)`; in a thread if it may take long."""
    return await asyncio.to_thread(work, *args) if aside else work(*args)


async def _abort(context: Context, error: Exception, call: _LogLine | None) -> NoReturn:
    told = _told(error)
    code, details = to_status(told)
    if call is not None:
        call.write(code, str(told))
    try:
        await context.abort(grpc.StatusCode[code], str(told), ((DETAILS, details),))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # the caller has gone meanwhile
    raise AssertionError("abort always raises")


def _told(error: Exception) -> LossError:
    """What the caller is told of an exception: never a traceback, never an unknown text."""
    if isinstance(error, LossError):
        return error
    if isinstance(error, RefusedError):
        return refused(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_FULL in str(error):
        return OutOfMemoryError("the device's memory must hold the call; send less at once")
    request = uuid.uuid4().hex[:12]
    log.error("request %s", request, exc_info=error)
    return InternalError(f"the server failed; its log has the details under request {request}")
