"""May this call enter? Calls and bytes in flight, deadline, draining.

Asked twice, so that a refusal costs next to nothing: before a call's message is
read, which gRPC holds back until then, and before it is decoded, by its size.
Runs on the event loop only; needs no lock.
"""

import asyncio
import math
from dataclasses import dataclass

from losswire.errors import DeadlineError, DrainingError, MessageTooLargeError, OverloadedError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the server accepts at most.

    Attributes:
        max_message_bytes: bytes of one message. gRPC itself cuts off at twice that.
        max_bytes_in_flight: bytes of all messages being worked on, and again of those coming in.
            At its peak a call takes five to seven times its message.
        max_calls_in_flight: calls that have begun and are not answered yet.
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
    """The door, and the count of who is in.

    Attributes:
        calls: calls that have begun and not ended.
        bytes: bytes of the messages of those that were let in.
        draining: nobody is let in any more.
        drained: set once that is so.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._empty = asyncio.Event()
        self._empty.set()
        self.calls = 0
        self.bytes = 0
        self.draining = False
        self.drained = asyncio.Event()

    def drain(self) -> None:
        """Let nobody in any more."""
        self.draining = True
        self.drained.set()

    def begin(self, calls: int = 1) -> "Place":
        """Count a call, whose message is not read yet; or several that are worked on as one."""
        self.calls += calls
        self._empty.clear()
        return Place(self, calls)

    def end(self, size: int, calls: int = 1) -> None:
        """Count calls of `size` bytes no more."""
        self.calls -= calls
        self.bytes -= size
        if not self.calls:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until no call is open."""
        await self._empty.wait()

    def check(self) -> None:
        """Whether the message of a call that has begun may be read.

        Raises:
            DrainingError, OverloadedError: not now.
        """
        if self.draining:
            raise DrainingError("the server is shutting down; try another, or again later")
        if self.calls > self._limits.max_calls_in_flight:
            raise OverloadedError(
                f"at most {self._limits.max_calls_in_flight} calls may be in flight "
                "(--max-calls-in-flight); try again",
                given=f"{self.calls - 1} in flight",
            )

    def check_message(self, size: int, remaining: float | None) -> None:
        """Whether a message of `size` bytes may enter, with `remaining` seconds to its deadline.

        Raises:
            MessageTooLargeError, DeadlineError, OverloadedError: it may not enter.
        """
        limits = self._limits
        if size > limits.max_message_bytes:
            raise MessageTooLargeError(
                f"a message must have at most {limits.max_message_bytes} bytes; the server's "
                "option --max-message-bytes raises that",
                given=f"{size} bytes",
            )
        remaining = math.inf if remaining is None else remaining
        if remaining <= 0:
            raise DeadlineError("the deadline must lie ahead", given=f"{remaining:.3f} s")
        # A message that is alone may exceed the sum: it would never enter otherwise.
        if self.bytes and self.bytes + size > limits.max_bytes_in_flight:
            raise OverloadedError(
                f"at most {limits.max_bytes_in_flight} bytes may be in flight "
                "(--max-bytes-in-flight); try again",
                given=f"{self.bytes} in flight and {size} more",
            )

    def check_more(self, size: int, own: int) -> None:
        """Whether a call that holds room for `own` bytes may have it for `size` more.

        Raises:
            MessageTooLargeError, OverloadedError: it may not.
        """
        limits = self._limits
        if own + size > max(limits.max_bytes_in_flight, limits.max_message_bytes):
            raise MessageTooLargeError(
                f"a call and the tensors that it names must have at most "
                f"{limits.max_bytes_in_flight} bytes; the server's option --max-bytes-in-flight "
                "raises that",
                given=f"{own + size} bytes",
            )
        others = self.bytes - own
        if others and self.bytes + size > limits.max_bytes_in_flight:
            raise OverloadedError(
                f"at most {limits.max_bytes_in_flight} bytes may be in flight "
                "(--max-bytes-in-flight); try again",
                given=f"{self.bytes} in flight and {size} more",
            )


class Place:
    """What a call takes up, or several as one, until it was answered or lost, and no thread has it."""

    def __init__(self, admission: Admission, calls: int = 1) -> None:
        self._admission = admission
        self._calls = calls
        self._size = 0
        self._holders = 1

    def enter(self, size: int, remaining: float | None) -> None:
        """Hold room for the call's message of `size` bytes, with `remaining` seconds to its deadline.

        Raises:
            MessageTooLargeError, DeadlineError, OverloadedError: it may not enter.
        """
        self._admission.check_message(size, remaining)
        self._take(size)

    def more(self, size: int) -> None:
        """Hold room for `size` bytes besides the message: of tensors that it names.

        Raises:
            MessageTooLargeError, OverloadedError: there is none.
        """
        self._admission.check_more(size, self._size)
        self._take(size)

    def less(self, size: int) -> None:
        """Give back room for `size` bytes of those that `more` has taken."""
        self._take(-size)

    def _take(self, size: int) -> None:
        self._admission.bytes += size
        self._size += size

    def hold(self) -> None:
        """Note that the call's message is in the hands of one more, who is to call `end`, too."""
        self._holders += 1

    def end(self, *_: object) -> None:
        """Give it all back if nobody else holds it. Called by gRPC, with the call's context."""
        self._holders -= 1
        if not self._holders:
            self._admission.end(self._size, self._calls)
