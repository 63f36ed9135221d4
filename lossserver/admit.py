"""May this call enter? Bytes and calls in flight, deadline, draining.

Asked before a message is decoded, by its size alone, so that a refusal costs
next to nothing. Runs on the event loop only; needs no lock.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from losswire.errors import DeadlineError, DrainingError, MessageTooLargeError, OverloadedError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server accepts at most.

    Attributes:
        max_message_bytes: bytes of one message. gRPC itself cuts off at twice that.
        max_bytes_in_flight: bytes of all messages being worked on. At its peak
            a call takes five to seven times its message, and gRPC holds what it
            receives before it is counted here.
        max_calls_in_flight: calls being worked on.
    """

    max_message_bytes: int = 256 << 20
    max_bytes_in_flight: int = 1 << 30
    max_calls_in_flight: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_message_bytes", "max_bytes_in_flight", "max_calls_in_flight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; given {getattr(self, name)}")
        # gRPC takes its own limit, twice ours, as a C int.
        if self.max_message_bytes > 2**30 - 1:
            raise ValueError(
                f"max_message_bytes must be below 2^30; given {self.max_message_bytes}"
            )


class Admission:
    """The door, and the count of who is in."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._calls = 0
        self._open = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    def opened(self) -> None:
        """A call has begun. It is open until its reply has been sent, or it was refused or lost."""
        self._open += 1
        self._empty.clear()

    def ended(self) -> None:
        """A call that was opened has ended."""
        self._open -= 1
        if not self._open:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until no call is open."""
        await self._empty.wait()

    @contextmanager
    def enter(self, size: int, remaining: float | None) -> Iterator[None]:
        """Hold a place for a message of `size` bytes with `remaining` seconds to its deadline.

        Raises:
            DrainingError, MessageTooLargeError, DeadlineError, OverloadedError: it may not enter.
        """
        self._check(size, math.inf if remaining is None else remaining)
        self._bytes += size
        self._calls += 1
        try:
            yield
        finally:
            self._bytes -= size
            self._calls -= 1

    def _check(self, size: int, remaining: float) -> None:
        limits = self._limits
        if self.draining:
            raise DrainingError("the server is shutting down; try another, or again later")
        if size > limits.max_message_bytes:
            raise MessageTooLargeError(
                f"a message must have at most {limits.max_message_bytes} bytes; the server's "
                "option --max-message-bytes raises that",
                given=f"{size} bytes",
            )
        if remaining <= 0:
            raise DeadlineError("the deadline must lie ahead", given=f"{remaining:.3f} s")
        if self._calls >= limits.max_calls_in_flight:
            raise OverloadedError(
                f"at most {limits.max_calls_in_flight} calls may be in flight "
                "(--max-calls-in-flight); try again",
                given=f"{self._calls} in flight",
            )
        # A message that is alone may exceed the sum: it would never enter otherwise.
        if self._calls and self._bytes + size > limits.max_bytes_in_flight:
            raise OverloadedError(
                f"at most {limits.max_bytes_in_flight} bytes may be in flight "
                "(--max-bytes-in-flight); try again",
                given=f"{self._bytes} in flight and {size} more",
            )
