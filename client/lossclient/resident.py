"""Tensors that stay with the server: put there once, named in calls.

A call names them by digest. What its server does not have is put there first, as
far as that is known beforehand, or when it says so; and where it cannot stay, its
bytes are sent in the call. So a call with a handle succeeds wherever one with the
array would.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from lossclient.line import Line
from losswire import frame, tensor
from losswire.errors import (
    DeadlineError,
    InternalError,
    LossError,
    MessageTooLargeError,
    NotResidentError,
    NotServedError,
    TensorError,
)
from losswire.frame import Parts
from losswire.resident import Handle, Reference
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb

log = logging.getLogger("lossclient")

#: Digests that are remembered of a line. One that was forgotten is asked for again.
REMEMBERED = 4096

#: What a server says of a tensor that cannot stay there.
STAYS_AWAY = (NotServedError, MessageTooLargeError)

#: A plane: the reply to a call over a line, within so many seconds.
Way = Callable[[Parts, Line, float | None], Parts]


def handle_of(array: Any) -> Handle:
    """A handle of an array: a copy of its bytes.

    Raises:
        TensorError: it does not travel.
    """
    if isinstance(array, Handle):
        return array
    try:
        packed = array if isinstance(array, TensorBytes) else tensor.pack(np.asarray(array))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorError(
            f"must be an array that NumPy can read ({error})", given=type(array).__name__
        ) from None
    return Handle(packed.dtype, packed.shape, bytes(packed.buffer))


def references(parts: Parts) -> list[Reference]:
    """The tensors that a call names."""
    return [one for one in parts.elsewhere if isinstance(one, Reference)]


def inlined(parts: Parts) -> Parts:
    """The same call with the bytes of the tensors that it names."""
    # What is elsewhere is numbered after what is not, so all keep their numbers.
    contents = [one.content for one in references(parts)]
    return Parts(parts.header, [*parts.payloads, *contents]) if contents else parts


def carried(way: Way, parts: Parts, line: Line, timeout: float | None) -> Parts:
    """`way(parts, line, timeout)`, and again if it names what its server does not have any longer."""
    named = references(parts)
    if not named:
        return way(parts, line, timeout)
    left = _Left(timeout)
    known = line.keep(Known, Known)
    for _ in range(2):
        there = _ready(parts, line, left)
        try:
            return way(there, line, left.seconds)
        except NotResidentError as error:
            known.forget(named)
            why = str(error)  # the error itself would hold this frame, and the call
    known.warn(why)  # they are too many for one call
    return way(inlined(parts), line, left.seconds)


def _ready(parts: Parts, line: Line, left: "_Left") -> Parts:
    """The call, having put the tensors that it names; with their bytes if they cannot stay."""
    if line.several:
        return inlined(parts)  # the next call may reach another server
    known = line.keep(Known, Known)
    try:
        for one in references(parts):
            known.put(one, left)
    except STAYS_AWAY as error:
        known.warn(str(error))
        return inlined(parts)
    return parts


def put(reference: Reference, line: Line, timeout: float | None) -> None:
    """Put a tensor where a line leads, if it is not there.

    Raises:
        LossError: it cannot be put.
    """
    if line.several:
        return
    known = line.keep(Known, Known)
    # What was there may be there no longer.
    known.forget([reference])
    known.put(reference, _Left(timeout))


class Known:
    """What is known of the tensors that are with a line's server. Kept by the line.

    Parameters:
        line: to the server.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        # By digest; why not, if it cannot stay there.
        self._known: dict[bytes, Callable[[], LossError] | None] = {}
        # One at a time: a hundred calls with the same tensor put it once.
        self._putting = threading.Lock()
        self._warned = False

    def put(self, reference: Reference, left: "_Left") -> None:
        """Put a tensor, unless it is known to be there.

        Raises:
            LossError: it cannot be put.
        """
        if not self._is_known(reference.digest):
            if not self._putting.acquire(timeout=-1 if left.seconds is None else left.seconds):
                raise DeadlineError("a tensor must be put within the timeout")
            try:
                if not self._is_known(reference.digest):
                    self._put(reference, left)
            finally:
                self._putting.release()

    def forget(self, named: list[Reference]) -> None:
        """Some of these are not there."""
        for one in named:
            self._known.pop(one.digest, None)

    def warn(self, why: str) -> None:
        """Say, once, that bytes are sent that were to stay."""
        if not self._warned:
            log.warning("%s: handles are sent as arrays (%s)", self._line.target, why)
            self._warned = True

    def close(self) -> None:
        """Nothing is left to be ended."""

    def _is_known(self, digest: bytes) -> bool:
        try:
            why_not = self._known[digest]
        except KeyError:
            return False
        if why_not is not None:
            raise why_not()
        return True

    def _put(self, reference: Reference, left: "_Left") -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        try:
            if not self._ask(left, reference.digest):
                self._ask(left, reference.digest, reference.content)
        except STAYS_AWAY as error:
            again = functools.partial(type(error), error.rule, given=error.given)
            self._known[reference.digest] = again
            raise
        self._known[reference.digest] = None

    def _ask(self, left: "_Left", digest: bytes, *content: bytes) -> bool:
        # The outline of a PutTensorRequest is that of a call.
        reply = self._line.call("PutTensor", frame.write(digest, content), left.seconds)
        try:
            return pb.PutTensorResponse.FromString(reply).held
        except DecodeError:
            raise InternalError(
                "a reply must be a losswire.v1.PutTensorResponse", given=f"{len(reply)} bytes"
            ) from None


class _Left:
    """What is left of a timeout."""

    def __init__(self, timeout: float | None) -> None:
        self._until = None if timeout is None else time.monotonic() + timeout

    @property
    def seconds(self) -> float | None:
        """Seconds, at least 0; None is for ever."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())
