"""A list of calls, small ones sent together; each has its own answer or error.

So many go in one message as a server works on at a time: the answers to the first
are read here while it computes the next.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lossclient.carrier import reading
from lossclient.ended import EndedError, UnservedError
from lossclient.line import Line
from lossclient.planes import Planes, inline
from lossclient.reply import Result
from lossclient.stream import Many, Stream
from lossclient.transport import RETRIED
from lossclient.waiting import rest
from losswire.errors import CancelledError, DeadlineError, LossError
from losswire.frame import Parts
from losswire.runs import MOST, Run


class Finish(NamedTuple):
    """What makes something of replies.

    Attributes:
        one: of the parts of one.
        several: of several that differ in their numbers alone.
    """

    one: Callable[[Parts], Result]
    several: Callable[[Run], Sequence[Result]]


#: What becomes of a call.
Outcome = Result | LossError


def send_many(
    planes: Planes, calls: Sequence[Parts], timeout: float | None, finish: Finish
) -> list[Outcome]:
    """For each call what is made of its reply, or why there is none; retries included.

    The large ones go one after the other, each the way that is the fastest for it.
    """
    until = math.inf if timeout is None else time.monotonic() + timeout

    def large(call: Parts) -> Parts:
        return planes.send(call, rest(until, timeout))

    small = [] if reading() else [i for i, call in enumerate(calls) if planes.over_stream(call)]
    found: dict[int, Outcome] = {}
    if small:
        answers = _send_small(planes, [calls[i] for i in small], timeout, finish)
        found.update(zip(small, answers, strict=True))
    for i, call in enumerate(calls):
        if i not in found:
            found[i] = _outcome(functools.partial(large, call), finish)
    return [found[i] for i in range(len(calls))]


def _send_small(
    planes: Planes, calls: Sequence[Parts], timeout: float | None, finish: Finish
) -> list[Outcome]:
    found: list[Outcome | None] = [None] * len(calls)
    here = planes.transport.local

    def lacking() -> list[int]:
        return [i for i, one in enumerate(found) if one is None or isinstance(one, RETRIED)]

    def attempt(line: Line, left: float | None) -> None:
        some = lacking()
        own = together([calls[i] for i in some], line, left, finish)
        for i, one in zip(some, own, strict=True):
            # Of two attempts at the same time, the one that is given up must not undo the other.
            given_up = isinstance(one, CancelledError)
            if found[i] is None or (isinstance(found[i], LossError) and not given_up):
                found[i] = one
        # A server that did not answer in time may hang, which a call alone would say, too.
        late = [one for one in found if isinstance(one, DeadlineError)]
        for told in [*(found[i] for i in lacking()), *late]:
            assert isinstance(told, LossError)  # noqa: S101  (for mypy)
            raise told

    def instead(left: float | None) -> None:
        assert here is not None  # noqa: S101  (for mypy)
        for i in lacking():
            found[i] = _outcome(functools.partial(here, calls[i], left), finish)

    size = sum(call.size for call in calls)
    try:
        planes.transport.run(attempt, timeout, size=size, instead=None if here is None else instead)
    except LossError as error:
        return [error if one is None else one for one in found]
    return [one for one in found if one is not None]  # which all are


def _outcome(reply: Callable[[], Parts], finish: Finish) -> Outcome:
    """What is made of a reply, or why there is none."""
    try:
        return finish.one(reply())
    except LossError as error:
        return error


def together(
    calls: Sequence[Parts], line: Line, timeout: float | None, finish: Finish
) -> list[Outcome]:
    """The same, of one attempt over the line's stream; unary calls if the server has no streams."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    found = _over(line.keep(Stream, Stream), calls, timeout, finish)
    if ended := [i for i, one in enumerate(found) if isinstance(one, EndedError)]:
        again = _over(line.keep(Stream, Stream), [calls[i] for i in ended], timeout, finish)
        for i, one in zip(ended, again, strict=True):
            found[i] = one
    return [
        _alone(call, line, until, timeout, finish) if isinstance(one, UnservedError) else one
        for call, one in zip(calls, found, strict=True)
    ]


def _over(
    stream: Stream, calls: Sequence[Parts], timeout: float | None, finish: Finish
) -> list[Outcome]:
    """The same, over that very stream."""
    until = math.inf if timeout is None else time.monotonic() + timeout
    begun: list[Many] = []
    found: list[Outcome] = []
    try:
        for at in range(0, len(calls), MOST):
            begun.append(stream.begin_many(calls[at : at + MOST], timeout))  # noqa: PERF401  (so that it is ended)
        for many in begun:
            left = None if timeout is None else max(0.0, until - time.monotonic())
            found += _finished(stream, many, timeout, left, finish)
    finally:
        for many in begun:  # apart: a message may have some thousand numbers, and no more
            stream.cancel(many.numbers)
    return found


def _finished(
    stream: Stream, many: Many, timeout: float | None, left: float | None, finish: Finish
) -> list[Outcome]:
    """What is made of the answers to calls that were sent together."""
    answers, missing = stream.answers(many, timeout, left)
    own: dict[int, Outcome] = {}
    for one in answers:
        if isinstance(one, Run):
            own.update(zip(one.ids, _outcomes(one, finish), strict=True))
        else:
            own[one.id] = _outcome(functools.partial(stream.read, one, timeout), finish)
    if missing is not None:
        return [own.get(number, missing) for number in many.numbers]
    return [own[number] for number in many.numbers]


def _outcomes(run: Run, finish: Finish) -> Sequence[Outcome]:
    try:
        return finish.several(run)
    except LossError as error:
        return [error] * len(run.ids)


def _alone(call: Parts, line: Line, until: float, timeout: float | None, finish: Finish) -> Outcome:
    return _outcome(lambda: inline(call, line, rest(until, timeout)), finish)
