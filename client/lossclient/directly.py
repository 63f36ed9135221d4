"""A call in pieces over a direct connection: the call by gRPC, its bytes past it.

A thread sends the pieces while those of the answer come in on the caller's. How the call
ends gRPC says, and whatever ends it ends the connection.
"""

import threading
import time
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

import grpc

from lossclient.direct import Connection, Directs
from lossclient.ended import UnservedError
from lossclient.giving_up import current
from lossclient.line import SERVICE, Line
from lossclient.pieces import Answer, cut, told
from lossclient.pieces import pieces as by_grpc
from lossclient.waiting import rest
from losswire import direct, frame
from losswire.errors import (
    CancelledError,
    DeadlineError,
    InternalError,
    MessageError,
    UnreachableError,
)
from losswire.frame import Parts
from losswire.piece import LARGEST

#: Seconds within which gRPC tells how a call has ended whose connection has; and beyond a call's
#: timeout, of which gRPC takes care, for an answer to come.
TOLD = 10.0
SLACK = 1.0


def pieces(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """The answer to one call in pieces, whose payloads are memory of their own; by gRPC if need be.

    Raises:
        UnservedError: the server takes no pieces.
        LossError: what the server said, or why it could not be asked.
    """
    until = time.monotonic() + (timeout or 0.0)
    with suppress(UnservedError):
        return directly(parts, line, timeout)
    return by_grpc(parts, line, rest(until, timeout))


def directly(parts: Parts, line: Line, timeout: float | None) -> Parts:
    """The same over a direct connection, and no other way.

    Raises:
        UnservedError: there is none to be had.
        LossError: what the server said, or why it could not be asked.
    """
    until = time.monotonic() + (timeout or 0.0)
    directs = line.keep(Directs, Directs)
    connection = directs.take(line, timeout)
    if connection is None:
        raise UnservedError("a server must let clients connect directly (--direct-port)")
    try:
        answer = _Call(parts, line, rest(until, timeout), connection).answer()
    except (UnservedError, UnreachableError) as error:
        directs.failed(str(error))  # perhaps gRPC alone comes through
        raise
    except DeadlineError as error:
        if not connection.came:
            directs.failed(str(error))
        raise
    directs.give_back(connection)
    return answer


class _Call:
    """A call over a direct connection, which is closed if anything goes wrong."""

    def __init__(
        self, parts: Parts, line: Line, timeout: float | None, connection: Connection
    ) -> None:
        self._parts = parts
        self._line = line
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout + SLACK
        self._connection = connection
        self._sending = threading.Thread(target=self._send, name="pieces", daemon=True)
        connection.fails_after(None if timeout is None else timeout + SLACK)
        message = frame.write(parts.header, [], parts.elsewhere) + direct.named(connection.name)
        method: Any = line.channel().unary_unary(SERVICE + "ComputeLarge")
        self._call = method.future(message, timeout=timeout)
        self._call.add_done_callback(self._ended)

    def answer(self) -> Parts:
        """The answer, once it is there.

        Raises:
            UnservedError: the server does not know the connection, or there is no thread more.
            LossError: what else it said, or why it could not be asked.
        """
        attempt = current()
        try:
            self._start()
            with attempt.ended_by(self._call.cancel) if attempt else nullcontext():
                return self._received()
        except BaseException as error:
            self._give_up()
            if isinstance(error, grpc.RpcError):
                raise told(error, self._line, self._timeout, attempt) from None
            if isinstance(error, grpc.FutureCancelledError):
                raise CancelledError("the call was given up") from None
            if isinstance(error, MessageError):
                raise InternalError(f"an answer in pieces must be one; {error}") from None
            raise

    def _start(self) -> None:
        try:
            self._sending.start()
        except RuntimeError as error:
            raise UnservedError(str(error)) from None

    def _received(self) -> Parts:
        answer = Answer(max(map(len, self._parts.payloads), default=0))
        try:
            while (head := self._connection.head())[0] != direct.END:
                self._check(*head)
                self._connection.receive(answer.room(*head))
            answer.take(self._call.result())
        except OSError:
            self._broken()
        self._sending.join(TOLD)
        if self._sending.is_alive():
            raise MessageError("no answer must come before all of the call was read")
        return answer.parts()

    def _check(self, payload: int, length: int) -> None:
        """Whether the server sends what it may, and in time: gRPC may take the call for ended."""
        if not 0 < length <= LARGEST or payload >= frame.MAX_FIELDS:
            raise MessageError(
                f"a piece must have 1 to {LARGEST} bytes, of one of {frame.MAX_FIELDS} payloads",
                given=f"{length} bytes of payload {payload}",
            )
        if self._until is not None and time.monotonic() > self._until:
            raise TimeoutError

    def _broken(self) -> NoReturn:
        """Say why the connection has ended: the call has, nearly always."""
        with suppress(grpc.FutureTimeoutError):
            self._call.result(TOLD)
        raise UnreachableError(f"a direct connection to {self._line.target} must last for a call")

    def _give_up(self) -> None:
        self._call.cancel()
        self._connection.end()
        if self._sending.ident is not None:
            self._sending.join()
        self._connection.close()

    def _send(self) -> None:
        with suppress(OSError):
            for payload, _, content in cut(self._parts):
                self._connection.send(payload, content)

    def _ended(self, call: Any) -> None:
        if call.code() is not grpc.StatusCode.OK:
            self._connection.end()
