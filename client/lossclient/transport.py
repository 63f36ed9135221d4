"""One channel to one server: bytes out, bytes back, retried while it makes sense.

A call is a pure function of its message, so sending it twice is safe. gRPC's
own retries stop at messages over 256 KiB; these do not.

A channel does not survive a fork: its threads stay behind in the parent. Who
forks (a DataLoader's workers do) gets a new channel at the first call in the
child.
"""

import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Read by grpcio when it is first imported: without it, gRPC in a forked child waits for ever for
# threads that only the parent has.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc

from losswire.errors import (
    CancelledError,
    DeadlineError,
    DrainingError,
    LossError,
    OverloadedError,
    UnreachableError,
)
from losswire.status import DETAILS, from_status

log = logging.getLogger("lossclient")

SERVICE = "/losswire.v1.LossService/"

#: Targets on this machine.
LOCAL = re.compile(r"localhost:|127\.|\[::1\]|unix:")

#: Seconds from which a timeout is none.
FOR_EVER = 365 * 86400.0

#: What passes by itself: nobody there, going down, too busy.
RETRIED = (UnreachableError, DrainingError, OverloadedError)


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How a call is repeated when no server answers, it shuts down, or it is too busy.

    Attributes:
        attempts: times a call is sent at most; None is until its timeout.
        first_wait: seconds before the second attempt; each further wait is twice the last.
        longest_wait: seconds that no wait exceeds.
    """

    attempts: int | None = None
    first_wait: float = 0.05
    longest_wait: float = 1.0

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, or None; given {self.attempts}")

    def waits(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, the first being 0.

        Between half of it and all, at random, so that a hundred trainers do not
        come back at once.
        """
        wait = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt, 30))
        return wait * random.uniform(0.5, 1)  # noqa: S311


class Transport:
    """A channel to a target, made at the first call and again after a fork.

    Parameters:
        target: as gRPC takes it: "host:port", "unix:/path", "dns:///name:port".
        credentials: of TLS; None for none.
        retry: how a call is repeated.
        max_message_bytes: bytes of a reply; -1 for no limit.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        retry: Retry,
        max_message_bytes: int,
    ) -> None:
        self.target = target
        self._credentials = credentials
        self._max_message_bytes = max_message_bytes
        self._retry = retry
        self._options = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # gRPC waits up to two minutes before it tries a lost server again; we ask sooner.
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # No proxy stands between a machine and itself, whatever http_proxy says.
            ("grpc.enable_http_proxy", int(not LOCAL.match(target))),
        ]
        self._lock = threading.Lock()
        self._pid = 0
        self._channel: grpc.Channel | None = None
        self._methods: dict[str, Callable[..., bytes]] = {}
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Transport, (self.target, self._credentials, self._retry, self._max_message_bytes)

    def call(self, method: str, message: bytes, timeout: float | None) -> bytes:
        """The reply to `message`, within `timeout` seconds (None is for ever), retries included.

        Raises:
            LossError: what the server said, or why it could not be asked.
        """
        timeout = math.inf if timeout is None else timeout
        if not timeout > 0:
            raise DeadlineError("must be above 0", field="timeout", given=f"{timeout} s")
        started = time.monotonic()
        attempt = 0
        while True:
            remaining = max(0.0, timeout - (time.monotonic() - started))
            try:
                # gRPC counts nanoseconds in 64 bits; beyond a year it is for ever.
                return self._method(method)(
                    message, timeout=remaining if remaining < FOR_EVER else None
                )
            except grpc.RpcError as error:
                told = self._told(error, timeout)
            wait = self._retry.waits(attempt)
            attempt += 1
            spent = time.monotonic() - started
            last = attempt == self._retry.attempts or spent + wait >= timeout
            if last or not isinstance(told, RETRIED):
                raise _counted(told, attempt, spent)
            if attempt == 1:
                log.warning("%s; trying again for up to %.0f s", told, timeout - spent)
            time.sleep(wait)

    def close(self) -> None:
        """Close the channel. Calls in flight end with CancelledError."""
        if self._pid not in (0, os.getpid()):
            self._closed = True
            self._channel = None  # the parent's, and so is the lock
            return
        with self._lock:
            self._closed = True
            if self._channel is not None and self._pid == os.getpid():
                self._channel.close()
            self._channel = None

    def check_open(self) -> None:
        """Raise ValueError if the client is closed."""
        if self._closed:
            raise ValueError("the client is closed")

    def _method(self, name: str) -> Callable[..., bytes]:
        if self._pid != os.getpid() or self._channel is None:
            self._open()
        method = self._methods.get(name)
        if method is None:
            if self._channel is None:
                raise ValueError("the client is closed")
            method = self._methods[name] = self._channel.unary_unary(SERVICE + name)
        return method

    def _open(self) -> None:
        if self._pid != os.getpid():
            # The parent may have forked while it held the lock.
            self._lock = threading.Lock()
        with self._lock:
            self.check_open()
            if self._channel is not None and self._pid == os.getpid():
                return  # another thread was faster
            self._methods = {}
            if self._credentials is None:
                self._channel = grpc.insecure_channel(self.target, self._options)
            else:
                self._channel = grpc.secure_channel(self.target, self._credentials, self._options)
            self._pid = os.getpid()

    def _told(self, error: grpc.RpcError, timeout: float) -> LossError:
        details = [item.value for item in error.trailing_metadata() or () if item.key == DETAILS]
        told = from_status(error.code().name, error.details() or "", *details[:1])
        if isinstance(told, UnreachableError):
            return UnreachableError(f"a loss server must answer at {self.target} ({told.rule})")
        if isinstance(told, CancelledError) and not self._closed:
            # Nobody here gave it up: so does gRPC end a call that reached a server as that closed.
            return UnreachableError(f"a loss server must answer at {self.target} (it hung up)")
        if isinstance(told, DeadlineError) and not told.field:
            return DeadlineError(f"{self.target} must answer within the timeout of {timeout} s")
        return told


def _counted(error: LossError, attempts: int, seconds: float) -> LossError:
    if attempts > 1:
        error.args = (f"{error} [after {attempts} attempts in {seconds:.1f} s]",)
    return error
