"""A list of calls, the small ones sent in one message; each has its own answer or error."""

import math
import time
from collections.abc import Sequence

from lossclient.carrier import reading
from lossclient.ended import EndedError, UnservedError
from lossclient.line import Line
from lossclient.local import Local
from lossclient.planes import Planes, inline
from lossclient.stream import Stream
from lossclient.transport import RETRIED
from lossclient.waiting import rest
from losswire.errors import DeadlineError, LossError
from losswire.frame import Parts

Found = Parts | LossError


def send_many(planes: Planes, calls: Sequence[Parts], timeout: float | None) -> list[Found]:
    """For each call the parts of its reply, or why there is none; retries included.

    The large ones go one after the other, each the way that is the fastest for it.
    """
    until = math.inf if timeout is None else time.monotonic() + timeout
    small = [i for i, call in enumerate(calls) if planes.over_stream(call) and not reading()]
    found: dict[int, Found] = {}
    if small:
        answers = _send_small(planes, [calls[i] for i in small], timeout)
        found.update(zip(small, answers, strict=True))
    for i, call in enumerate(calls):
        if i not in found:
            try:
                found[i] = planes.send(call, rest(until, timeout))
            except LossError as error:
                found[i] = error
    return [found[i] for i in range(len(calls))]


def _send_small(planes: Planes, calls: Sequence[Parts], timeout: float | None) -> list[Found]:
    found: dict[int, Found] = {}
    here = planes.transport.local

    def lacking() -> list[int]:
        return [i for i in range(len(calls)) if isinstance(found.get(i), (*RETRIED, type(None)))]

    def attempt(line: Line, left: float | None) -> None:
        some = lacking()
        for i, one in zip(some, together([calls[i] for i in some], line, left), strict=True):
            # Of two attempts at the same time, the one that is given up must not undo the other.
            if not isinstance(found.get(i), Parts):
                found[i] = one
        # A server that did not answer in time may hang, which a call alone would say, too.
        late = [one for one in found.values() if isinstance(one, DeadlineError)]
        for told in [*(found[i] for i in lacking()), *late]:
            assert isinstance(told, LossError)  # noqa: S101  (for mypy)
            raise told

    def instead(left: float | None) -> None:
        assert here is not None  # noqa: S101  (for mypy)
        for i in lacking():
            found[i] = _here(here, calls[i], left)

    size = sum(call.size for call in calls)
    try:
        planes.transport.run(attempt, timeout, size=size, instead=None if here is None else instead)
    except LossError as error:
        for i in range(len(calls)):
            found.setdefault(i, error)
    return [found[i] for i in range(len(calls))]


def _here(local: Local, call: Parts, left: float | None) -> Found:
    try:
        return local(call, left)
    except LossError as error:
        return error


def together(calls: Sequence[Parts], line: Line, timeout: float | None) -> list[Found]:
    """The same, of one attempt over the line's stream; unary calls if the server has no streams."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    found = line.keep(Stream, Stream).call_many(calls, timeout)
    if ended := [i for i, one in enumerate(found) if isinstance(one, EndedError)]:
        again = line.keep(Stream, Stream).call_many([calls[i] for i in ended], timeout)
        for i, one in zip(ended, again, strict=True):
            found[i] = one
    return [
        _alone(call, line, until, timeout) if isinstance(one, UnservedError) else one
        for call, one in zip(calls, found, strict=True)
    ]


def _alone(call: Parts, line: Line, until: float, timeout: float | None) -> Found:
    try:
        return inline(call, line, rest(until, timeout))
    except LossError as error:
        return error
