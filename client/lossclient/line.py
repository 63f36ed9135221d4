"""One target, the channel to it, and what the planes keep with that channel.

A channel does not survive a fork: its threads stay behind in the parent. Who
forks (a DataLoader's workers do) gets a new channel at the first call in the
child, and with it everything else that was kept.
"""

import os
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

# Read by grpcio when it is first imported: without it, gRPC in a forked child waits for ever for
# threads that only the parent has.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc

from lossclient.channel import SEVERAL, options
from lossclient.giving_up import Attempt, current
from losswire.errors import (
    CancelledError,
    DeadlineError,
    InternalError,
    LossError,
    NotServedError,
    UnreachableError,
)
from losswire.status import DETAILS, from_status

SERVICE = "/losswire.v1.LossService/"
HEALTH = "/grpc.health.v1.Health/Check"

#: A serialised grpc.health.v1.HealthCheckResponse that says SERVING.
WELL = b"\x08\x01"

#: Seconds that an answer to the question for health may take.
CHECKED_WITHIN = 2.0

#: How gRPC itself tells of a connection that broke in the middle of a call, where it does not call
#: it UNAVAILABLE. A server of ours sends details with all it says.
BROKEN = re.compile(r"RST_STREAM|Stream removed|GOAWAY", re.IGNORECASE)

#: Targets that are one host and a port.
ONE_HOST = re.compile(
    r"(?!unix:|unix-abstract:|dns:)(?:ipv4:|ipv6:)?(?:\[(?P<v6>[^\]/,]+)\]|(?P<host>[^:\[\]/,]+)):\d+\Z"
)

#: Seconds from which a timeout is none: gRPC counts nanoseconds in 64 bits.
FOR_EVER = 365 * 86400.0


class Kept(Protocol):
    """What a plane keeps with a line: a stream, regions."""

    def close(self) -> None:
        """End it. It is not used after that."""


T = TypeVar("T", bound=Kept)


class Line:
    """A channel to a target, made at the first call and again after a fork.

    Parameters:
        target: as gRPC takes it: "host:port", "unix:/path", "dns:///name:port".
        credentials: of TLS; None for none.
        max_message_bytes: bytes of a reply; -1 for no limit.

    Attributes:
        target: the same.
        several: there may be several servers, and one call may reach another than the last.
        host: which other ports of the server may be connected to without TLS; empty if none.
    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None, max_message_bytes: int
    ) -> None:
        self.target = target
        self._credentials = credentials
        self._max_message_bytes = max_message_bytes
        self.several = bool(SEVERAL.match(target))
        host = ONE_HOST.match(target)
        self.host = (host["v6"] or host["host"]) if host and credentials is None else ""
        self._options = options(target, max_message_bytes)
        self._lock = threading.Lock()
        self._pid = 0
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Callable[..., bytes]] = {}
        self._kept: dict[type[Any], Any] = {}
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Line, (self.target, self._credentials, self._max_message_bytes)

    def call(self, method: str, message: bytes, timeout: float | None) -> bytes:
        """The reply to one unary call.

        Raises:
            LossError: what the server said, or why it could not be asked.
        """
        attempt = current()
        try:
            if attempt is None:
                return self._method(method)(message, timeout=timeout)
            return self._abandonable(attempt, method, message, timeout)
        except grpc.RpcError as error:
            raise self.told(error, timeout) from None

    def check(self, told: Callable[[bool], None]) -> None:
        """Ask whether the server is well, and do not wait: another thread tells.

        Raises:
            ValueError: the line is closed.
        """
        health: Any = self.channel().unary_unary(HEALTH)
        asking = health.future(b"", timeout=CHECKED_WITHIN)
        asking.add_done_callback(lambda answer: told(_is_well(answer)))

    def channel(self) -> grpc.Channel:
        """The channel, open.

        Raises:
            ValueError: the line is closed.
        """
        channel = self._channel
        if self._pid == os.getpid() and channel is not None:
            return channel
        if self._pid != os.getpid():
            # The parent may have forked while it held the lock.
            self._lock = threading.Lock()
        with self._lock:
            self.check_open()
            if self._channel is None or self._pid != os.getpid():
                self._open()
            assert self._channel is not None  # noqa: S101  (for mypy)
            return self._channel

    def keep(self, kind: type[T], make: Callable[["Line"], T]) -> T:
        """What is kept of that kind with the channel, made now if there is none."""
        self.channel()
        found = self._kept.get(kind)
        if found is None:
            with self._lock:
                self.check_open()
                found = self._kept.get(kind)
                if found is None:
                    found = self._kept[kind] = make(self)
        kept: T = found
        return kept

    def forget(self, kept: Kept) -> None:
        """Keep that no longer; it is closed."""
        with self._lock:
            if self._kept.get(type(kept)) is kept:
                del self._kept[type(kept)]
        kept.close()

    def close(self) -> None:
        """Close the channel, and what is kept with it. Calls in flight end with CancelledError."""
        if self._pid not in (0, os.getpid()):
            self._closed = True
            self._channel = None  # the parent's, and so is the lock
            return
        with self._lock:
            self._closed = True
            kept, self._kept = list(self._kept.values()), {}
            channel, self._channel = self._channel, None
        for one in kept:
            one.close()
        if channel is not None:
            channel.close()

    def check_open(self) -> None:
        """Raise ValueError if the client is closed."""
        if self._closed:
            raise ValueError("the client is closed")

    def told(self, error: grpc.RpcError, timeout: float | None) -> LossError:
        """What a failed call says of it."""
        details = [item.value for item in error.trailing_metadata() or () if item.key == DETAILS]
        told = from_status(error.code().name, error.details() or "", *details[:1])
        if not details and isinstance(told, InternalError) and BROKEN.search(told.rule):
            return UnreachableError(f"a loss server must answer at {self.target} ({told.rule})")
        if isinstance(told, UnreachableError):
            return UnreachableError(f"a loss server must answer at {self.target} ({told.rule})")
        if isinstance(told, CancelledError) and not self._closed:
            # Nobody here gave it up: so does gRPC end a call that reached a server as that closed.
            return UnreachableError(f"a loss server must answer at {self.target} (it hung up)")
        if isinstance(told, NotServedError) and not details:
            return NotServedError(
                f"a server that has this must answer at {self.target} ({told.rule})"
            )
        if isinstance(told, DeadlineError) and not told.field:
            seconds = None if timeout is None else round(timeout, 3)
            return DeadlineError(f"{self.target} must answer within the timeout of {seconds} s")
        return told

    def _method(self, name: str) -> Callable[..., bytes]:
        channel = self.channel()
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = channel.unary_unary(SERVICE + name)
        return method

    def _abandonable(
        self, attempt: Attempt, method: str, message: bytes, timeout: float | None
    ) -> bytes:
        """The reply to a call that another thread may give up."""
        call: Any = self._method(method)
        future = call.future(message, timeout=timeout)
        with attempt.ended_by(future.cancel):
            try:
                reply: bytes = future.result()
            except grpc.FutureCancelledError:
                raise CancelledError("the call was given up") from None
            return reply

    def _open(self) -> None:
        self._methods, self._kept = {}, {}
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self.target, self._options)
        else:
            self._channel = grpc.secure_channel(self.target, self._credentials, self._options)
        self._pid = os.getpid()
        # gRPC keeps the connection of a channel that was forgotten, and not closed.
        weakref.finalize(self, _forget, self._channel, self._pid).atexit = False


def _forget(channel: grpc.Channel, pid: int) -> None:
    """Close a channel that nobody can use any longer; a forked child leaves it to its parent."""
    if pid == os.getpid():
        channel.close()


def _is_well(answer: Any) -> bool:
    """Whether a server that was asked for its health may be sent calls."""
    if answer.code() is grpc.StatusCode.OK:
        return bool(answer.result() == WELL)
    # It has no such service, but it answers.
    return answer.code() is grpc.StatusCode.UNIMPLEMENTED
