"""The servicer: a few lines a call."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import grpc

import lossserver
from lossserver import large, resident, streams
from lossserver.account import Account
from lossserver.admit import Place
from lossserver.admitted import admitted
from lossserver.answer import LARGE, Asker, answer, aside
from lossserver.card import catalogue
from lossserver.front import Context, Front, connection_of
from losswire import frame
from losswire.v1 import loss_pb2 as pb

NAME = "losswire.v1.LossService"

#: Of unary and streaming methods alike; grpcio's own class takes no type parameters at run time.
MethodHandler = Any


class LossService:
    """What a LossService answers.

    Parameters:
        front: what all its methods share.
    """

    def __init__(self, front: Front) -> None:
        self._front = front
        front.metrics.calls_in_flight.watch(lambda: front.admission.calls)
        front.metrics.direct_connections.watch(lambda: front.direct.count)
        front.metrics.bytes_in_flight.watch(lambda: front.admission.bytes)

    async def compute(self, _: object, context: Context) -> bytes:
        """One call, from bytes to bytes."""
        return await admitted(self._front, context, functools.partial(self._answer, context))

    async def _answer(self, context: Context, tenant: str, place: Place, account: Account) -> bytes:
        front = self._front
        message = await front.receiving.message(context.read, connection_of(context))
        front.pool.arrived()
        remaining = context.time_remaining()
        place.enter(len(message), remaining)
        asker = Asker(tenant=tenant, remaining=remaining, place=place, account=account)
        parts = resident.resolved(frame.read(message), front, tenant, place)
        del message
        reply = await answer(parts, asker, front.pool)
        del parts
        write = functools.partial(frame.write, *reply)
        return await aside(write, place) if reply.size >= LARGE else write()

    async def compute_stream(self, _: object, context: Context) -> None:
        """Many calls over one stream."""
        await streams.serve(self._front, context)

    async def compute_large(self, _: object, context: Context) -> None:
        """One call in pieces."""
        await large.serve(self._front, context)

    async def put_tensor(self, _: object, context: Context) -> bytes:
        """A tensor that is to stay."""
        return await resident.put(self._front, context)

    async def list_losses(self, _: object, __: Context) -> bytes:
        """The catalogue."""
        return catalogue().SerializeToString()

    async def get_server(self, _: object, __: Context) -> bytes:
        """What this server is and accepts."""
        limits = pb.Limits(
            max_message_bytes=self._front.limits.max_message_bytes,
            max_bytes_in_flight=self._front.limits.max_bytes_in_flight,
            max_calls_in_flight=self._front.limits.max_calls_in_flight,
        )
        return pb.GetServerResponse(
            version=lossserver.__version__,
            devices=[str(device) for device in self._front.pool.devices],
            planes=[
                "inline",
                "stream",
                "pieces",
                *(["shared"] if self._front.shared.offered else []),
                *(["resident"] if self._front.held.residence.largest else []),
            ],
            limits=limits,
            direct_port=self._front.direct.port,
        ).SerializeToString()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for a gRPC server. Messages stay bytes: what cannot be read is ours to say."""
        # A caller sees no difference; but a message of a unary call is here before we are asked.
        unary: Any = grpc.stream_unary_rpc_method_handler
        streaming: Any = grpc.stream_stream_rpc_method_handler
        return _Handler(
            {
                "Compute": unary(self.compute),
                "ComputeStream": streaming(self.compute_stream),
                "ComputeLarge": streaming(self.compute_large),
                "PutTensor": unary(self.put_tensor),
                # There is nothing in these requests to be read.
                "ListLosses": unary(self.list_losses),
                "GetServer": unary(self.get_server),
            },
            self._front.pool.expect,
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
