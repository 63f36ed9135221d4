"""Calls over a ComputeStream, for a generator that lives on an event loop.

Like a unary method of gRPC's: called with a message and a timeout, it gives the
reply or raises. What is called while a message is being written goes out with the
next.
"""

import asyncio
import functools
import itertools
from typing import Any

import grpc
from google.rpc import status_pb2
from grpc.aio import AioRpcError, Metadata

from losswire import frame, saying, streaming
from losswire.frame import Parts
from losswire.streaming import Answered
from losswire.tensor import Buffer

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Streamed:
    """One stream of a channel, opened at the first call.

    Parameters:
        method: the channel's ComputeStream.
    """

    def __init__(self, method: Any) -> None:
        self._method = method
        self._numbers = itertools.count(1)
        self._flying: dict[int, asyncio.Future[Answered]] = {}
        self._waiting: list[Buffer] = []
        self._some = asyncio.Event()
        self._beside: list[asyncio.Task[None]] = []

    async def __call__(self, message: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109  (gRPC's)
        """The serialised reply to a serialised ComputeRequest.

        Raises:
            AioRpcError: the call, or the whole stream, ended in another status.
        """
        if not self._beside:
            call = self._method()
            self._beside = [asyncio.create_task(one(call)) for one in (self._write, self._read)]
        number = next(self._numbers)
        answered = self._flying[number] = asyncio.get_running_loop().create_future()
        self._waiting += saying.call(number, timeout, _parts(message))
        self._some.set()
        try:
            async with asyncio.timeout(timeout):
                answer = await answered
        except TimeoutError:
            self._waiting += saying.cancelled([number])
            raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED) from None
        finally:
            self._flying.pop(number, None)
        if answer.response is None:
            raise _failed(_CODES[status_pb2.Status.FromString(answer.status).code])
        found = answer.response
        return frame.write(*found) if isinstance(found, Parts) else bytes(found)

    async def _write(self, call: Any) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            message, self._waiting = b"".join(self._waiting), []
            await call.write(message)

    async def _read(self, call: Any) -> None:
        error = _failed(grpc.StatusCode.UNAVAILABLE)
        try:
            async for message in call:
                for answer in streaming.each(streaming.read_told(message).answers):
                    if (answered := self._flying.get(answer.id)) and not answered.done():
                        answered.set_result(answer)
        except AioRpcError as told:
            error = told
        self._beside.pop(0).cancel()
        self._beside.clear()
        for answered in self._flying.values():
            if not answered.done():
                answered.set_exception(error)


def _failed(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata())


@functools.lru_cache(maxsize=64)
def _parts(message: bytes) -> Parts:
    return frame.read(message)
