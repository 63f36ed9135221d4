"""An event loop that stays awake between the calls of a trainer who asks again at once.

A thread that sleeps for a moment between two calls wakes late, and finds the core's caches another's: a
small call takes it half as long again as if it had stayed awake. So where one caller after another call
asks sooner than that costs, the loop waits for it awake. Where several ask at a time the loop has
little to wait for, and their process needs the core.
"""

import asyncio
import os
from collections.abc import Callable

from losswire.cores import cores

#: Calls in a row that came as those of a lone caller do, after which the next one is waited for awake.
IN_A_ROW = 8

#: Seconds after an answer in which nobody can have read it and asked again: a call that comes sooner is
#: of another caller.
AT_ONCE = 0.00003


class Awake:
    """How long an event loop stays awake. On that loop only.

    Parameters:
        seconds: after an answer, if a lone caller has asked again as soon lately; 0 is never.
        busy: whether anything is worked on, of which it would take the core.
    """

    def __init__(self, seconds: float, busy: Callable[[], bool]) -> None:
        # On the only core there is the caller would wait for us.
        self._seconds = seconds if cores() > 1 else 0.0
        self._busy = busy
        self._answered = float("-inf")
        self._until = float("-inf")
        self._in_a_row = 0
        self._waiting = False

    def came(self, messages: int) -> None:
        """Note that so many messages have come together."""
        now = self._until = asyncio.get_running_loop().time()
        alone = messages == 1 and AT_ONCE < now - self._answered < self._seconds
        self._in_a_row = self._in_a_row + 1 if alone else 0

    def answered(self) -> None:
        """Note that an answer was sent; stay awake if the next call is likely to come soon."""
        loop = asyncio.get_running_loop()
        self._answered = loop.time()
        if self._in_a_row >= IN_A_ROW:
            self._until = self._answered + self._seconds
            if not self._waiting:
                self._waiting = True
                loop.call_soon(self._wait, loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop look once more whether anything has come; whoever needs the core may have it."""
        if loop.time() < self._until and not self._busy():
            os.sched_yield()
            loop.call_soon(self._wait, loop)
        else:
            self._waiting = False
