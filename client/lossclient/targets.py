"""Which server to ask next. Nothing is waited for here.

A client has a home among its targets, chosen at random, so that many clients
spread over them. It stays there: streams and shared memory are kept with a line.
A target that fails is left alone for a while, twice as long after each failure;
then it is asked for its health, beside the calls that go elsewhere meanwhile, and
is asked again once it says that it is well.

Threads share it without a lock: each field is set in one step, and if two of them
ask a server for its health instead of one, no harm is done.
"""

import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from lossclient.line import CHECKED_WITHIN, Line
from losswire.errors import DeadlineError, LossError, OverloadedError

log = logging.getLogger("lossclient")

#: Seconds for which a target is left alone after its first failure, and at most.
FIRST_REST = 0.25
LONGEST_REST = 10.0


class Target:
    """One server, and how it has behaved.

    Attributes:
        line: to it.
        failures: in a row; a second one can only be that it is not well when it is asked for that.
        rests_until: monotonic seconds until which it is left alone; 0 if it is well.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.failures = 0
        self.rests_until = 0.0

    @property
    def well(self) -> bool:
        """Whether it is asked as a matter of course."""
        return not self.rests_until

    def failed(self) -> None:
        """Leave it alone for a while. All calls that were with it fail together, which counts once."""
        if self.well:
            self._rest()

    def doubted(self) -> None:
        """Ask it for its health before anything else: it may hang."""
        if self.well:
            self.rests_until = time.monotonic()

    def answered(self) -> None:
        """Ask it again as a matter of course."""
        if self.rests_until:
            log.info("%s answers again", self.line.target)
        self.failures, self.rests_until = 0, 0.0

    def check(self) -> None:
        """Ask for its health if it has rested, and go on meanwhile."""
        now = time.monotonic()
        if self.well or now < self.rests_until:
            return
        # Should the answer never come, as after a fork, it will be asked again.
        self.rests_until = now + 2 * CHECKED_WITHIN
        self.line.check(lambda well: self.answered() if well else self._rest())

    def _rest(self) -> None:
        # Between half of it and all, as clients fail together, too.
        rest = min(LONGEST_REST, FIRST_REST * 2.0 ** min(self.failures, 30))
        self.failures += 1
        self.rests_until = time.monotonic() + rest * random.uniform(0.5, 1)  # noqa: S311


class Targets:
    """All servers that a client may ask, any of which can answer any call.

    Parameters:
        lines: one to each.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        home = random.randrange(len(lines))  # noqa: S311
        self._from_home = [Target(line) for line in (*lines[home:], *lines[:home])]

    def __reduce__(self) -> tuple[Any, ...]:
        return Targets, (self._lines,)

    def __str__(self) -> str:
        return ", ".join(line.target for line in self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def order(self, *, well: bool = False) -> list[Target]:
        """Whom to ask, one after the other, until one answers.

        Parameters:
            well: leave out who rests. They come last otherwise, since one may be back.
        """
        up = [target for target in self._from_home if target.well]
        if len(up) == len(self._from_home):
            return up
        down = sorted(
            (target for target in self._from_home if target not in up),
            key=lambda target: target.rests_until,
        )
        if up or well:
            for target in down:
                target.check()
        return up if well else up + down

    def failed(self, target: Target, error: LossError) -> None:
        """Take note of an error that a target gave, or that it gave none in time."""
        if isinstance(error, DeadlineError):
            target.doubted()
        elif not isinstance(error, OverloadedError):  # that one is well, and has others to serve
            target.failed()

    def close(self) -> None:
        """Close all lines. Calls in flight end with CancelledError."""
        for line in self._lines:
            line.close()

    def check_open(self) -> None:
        """Raise ValueError if the client is closed."""
        self._lines[0].check_open()
