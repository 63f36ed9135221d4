"""Many small calls over one stream: sent together where several wait, answered in any order.

A call over a stream that is there costs half of a unary one, which is a stream of
its own. Any thread leaves a call to be sent, and may wait for its answer; what carries
the messages is carrier.py's.
"""

import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from lossclient.carrier import Carrier
from lossclient.ended import UnservedError, told_by
from lossclient.flying import Flying, Settle
from lossclient.giving_up import current
from lossclient.line import Line
from lossclient.waiting import Gathering, Waiting
from losswire import frame, saying
from losswire.errors import DeadlineError, InternalError, LossError, MessageError
from losswire.frame import Parts
from losswire.runs import Run
from losswire.streaming import Answered, Told
from losswire.v1 import loss_pb2 as pb

#: Calls in flight with which a server is taken to be busy for as long as another thread needs to
#: send what has gathered.
FEW = 4


class Many(NamedTuple):
    """Calls that were sent together: numbers to `cancel` them by, and what becomes of them."""

    numbers: range
    gathering: Gathering


class Stream:
    """A stream of a line, from the first call to whatever ends it.

    Parameters:
        line: to the server.

    Attributes:
        thread: reads it until it ends.
    """

    def __init__(self, line: Line) -> None:
        self._target = line.target
        self._line = weakref.ref(line)
        self._flying = Flying()
        self._asked: dict[int, Waiting[pb.Region]] = {}
        self._carrier = Carrier(line, self._take, self._expecting, self._end)
        self._outgoing = self._carrier.outgoing
        self.thread = self._carrier.thread
        self._carrier.start()

    def __str__(self) -> str:
        return self._target

    @property
    def bypassed(self) -> bool:
        """Whether calls go past gRPC, but for those that are too long."""
        return self._outgoing.bypassed

    def call(self, parts: Parts, timeout: float | None, answer: bytes = b"") -> Parts:
        """The parts of the answer to a call.

        Parameters:
            parts: of the call. It is sent from where its tensors lie.
            timeout: seconds; None is for ever.
            answer: a serialised Span, where tensors of the answer may be written.

        Raises:
            EndedError, UnservedError: it must be sent once more, or another way.
            LossError: what the server said, or why it could not be asked.
        """
        waiting = Waiting[Answered]()
        began = time.monotonic()
        number = self.begin(parts, timeout, waiting.settle, answer)
        try:
            self._carrier.look(waiting, timeout)
            self._wait(waiting, timeout, [number], timeout)
        finally:
            self._carrier.took(time.monotonic() - began)
        return self.read(waiting.found, timeout)

    def begin_many(self, calls: Sequence[Parts], timeout: float | None) -> Many:
        """Send calls in one message, and do not wait."""
        gathering = Gathering(len(calls))
        numbers = self._flying.expect_many(gathering, len(calls))
        listed = self._carrier.takes_lists
        self._outgoing.put_together(saying.several(numbers.start, timeout, calls, listed=listed))
        self._carrier.want()
        return Many(numbers, gathering)

    def answers(
        self, many: Many, timeout: float | None, left: float | None
    ) -> tuple[list[Answered | Run], LossError | None]:
        """The answers to calls that were sent together, and why there is none to the others.

        Parameters:
            many: the calls.
            timeout: seconds that they have.
            left: of these; None is for ever.
        """
        numbers, gathering = many
        try:
            self._flying.check(numbers)
            self._wait(gathering, timeout, numbers, left)
        except LossError as error:
            return gathering.answers, error
        return gathering.answers, gathering.found

    def begin(
        self,
        parts: Parts,
        timeout: float | None,
        settle: Settle,
        answer: bytes = b"",
        *,
        soon: bool = False,
    ) -> int:
        """Send a call, and do not wait; the number to `cancel` it by.

        Parameters:
            parts: of the call. They are read a moment later.
            timeout: seconds after which the server gives it up; None is never.
            settle: called once with what became of it, by whoever reads it: another thread as a rule.
            answer: a serialised Span, where tensors of the answer may be written.
            soon: nobody waits for this one yet: where more than FEW are in flight it may gather.

        Raises:
            LossError: the stream is over.
        """
        number = self._flying.expect(settle)
        gathers = soon and len(self._flying) > FEW
        self._outgoing.put(saying.call(number, timeout, parts, answer), soon=gathers)
        if soon:
            self._carrier.want()
        self._flying.check([number])
        return number

    def cancel(self, numbers: Iterable[int]) -> bool:
        """Wait for calls no longer, and whether one was waited for; none is settled after that."""
        waited = self._flying.drop(numbers)
        if waited:
            self._outgoing.put(saying.cancelled(waited))
        return bool(waited)

    def read(self, outcome: Answered | LossError, timeout: float | None) -> Parts:
        """The parts of an answer.

        Raises:
            LossError: the call has failed.
        """
        if isinstance(outcome, LossError):
            raise outcome
        if outcome.response is None:
            raise self._failed(outcome.status, timeout)
        if isinstance(outcome.response, Parts):
            return outcome.response
        try:
            return frame.read(outcome.response)
        except MessageError:
            raise InternalError(
                "an answer must have a losswire.v1.ComputeResponse",
                given=f"{len(outcome.response)} other bytes",
            ) from None

    def open_region(self, number: int, size: int, timeout: float | None) -> str:
        """Have the server make a region; the name under which it can be had.

        Raises:
            LossError: it is not to be had.
        """
        asked = self._asked[number] = Waiting[pb.Region]()
        region = pb.OpenRegion(region=number, bytes=size)
        self._outgoing.put(saying.opened(region.SerializeToString()))
        self._carrier.want()
        if self._flying.over is not None:
            asked.settle(self._flying.over)
        there = asked.wait(timeout)
        del self._asked[number]
        if not there:
            self.close_region(number)
            raise self.late(timeout)
        if isinstance(asked.found, LossError):
            raise asked.found
        if not asked.found.name:
            raise self._failed(asked.found.status, timeout)
        return asked.found.name

    def close_region(self, number: int) -> None:
        """Use a region no longer."""
        self._outgoing.put(saying.closed(number))

    def close(self) -> None:
        """End the stream. Calls in flight end with CancelledError."""
        self._carrier.end()

    def _wait(
        self,
        waiting: Waiting[Any],
        timeout: float | None,
        numbers: Iterable[int],
        left: float | None,
    ) -> None:
        """Wait for what these calls find; give them up if that ends in any other way."""
        attempt = current()
        try:
            with attempt.ended_by(waiting.give_up) if attempt else nullcontext():
                if not waiting.wait(left):
                    raise self.late(timeout)
        finally:
            self.cancel(numbers)

    def _failed(self, status: bytes, timeout: float | None) -> LossError:
        told = told_by(status)
        if isinstance(told, DeadlineError) and not told.field:
            return self.late(timeout)
        return told

    def late(self, timeout: float | None) -> DeadlineError:
        """What is told of a call that was not answered in time."""
        if timeout is not None:
            self._carrier.doubt(timeout)
        seconds = None if timeout is None else round(timeout, 3)
        return DeadlineError(f"{self._target} must answer within the timeout of {seconds} s")

    def _expecting(self) -> int:
        """How many answers are to come."""
        return len(self._flying) + len(self._asked)

    def _take(self, told: Told) -> None:
        """Hand out what the server says."""
        for answer in told.answers:
            self._flying.settle(answer)
        for serialised in told.regions:
            region = pb.Region.FromString(serialised)
            asked = self._asked.get(region.region)
            if asked is not None:
                asked.settle(region)

    def _end(self, over: LossError) -> None:
        """Tell whoever waits how the stream has ended."""
        line = self._line()
        # That there are no streams is remembered.
        if line is not None and type(over) is not UnservedError:
            line.forget(self)
        # Not before: who is told so asks for a new one.
        self._flying.end(over)
        for asked in list(self._asked.values()):
            asked.settle(over)
