"""Who reads a bypass: a caller that looks for its own answer, or the thread that reads for all others.

A thread that reads for a lone caller is woken by the server and then wakes the caller, each of which takes
as long as the kernel of a small loss. So a caller whose last answers came within a moment looks for the
next one itself, awake, and the thread sleeps. In whatever other case the thread reads: several calls are
in flight, or an answer takes longer.
"""

import os
import threading
import time
from collections.abc import Callable

from lossclient.bypass import Bypass
from lossclient.waiting import Waiting
from losswire.bypass import Incoming
from losswire.cores import cores
from losswire.tensor import Buffer

#: Seconds for which a caller looks, if its last answer came as soon: on the only core never.
AWAKE = 0.001 if cores() > 1 else 0.0


#: Seconds after which the thread looks what came though nothing is to come: answers that nobody waits for
#: any longer would hold the server up, and one that has hung up is left.
PAUSE = 1.0


class Reading:
    """The reading of one bypass. Any thread may use it.

    Parameters:
        bypass: what is read.
        take: called with each message, by one thread at a time.
        expecting: how many answers are to come.
    """

    def __init__(
        self, bypass: Bypass, take: Callable[[Buffer], None], expecting: Callable[[], int]
    ) -> None:
        self._bypass = bypass
        self._take = take
        self._expecting = expecting
        self._incoming = Incoming()
        # Whoever holds it reads, and takes what came. Nobody waits for the server with it.
        self._turn = threading.Lock()
        self._wanted = threading.Event()
        self._to_the_end = False
        self._spoiled = False
        self._soon = False

    def all(self) -> None:
        """Read for whoever does not do so, until the server hangs up.

        Raises:
            MessageError, DecodeError, MessageTooLargeError: what came is no message.
        """
        count: int | None = None
        while count != 0:
            self._hand_on()
            if self._wanted.wait(PAUSE) and self._is_needed() and not self._spoiled:
                self._bypass.listen()
            with self._turn:
                while count := self._some():
                    pass
                if not self._is_needed():
                    self._wanted.clear()  # who comes now is seen at the next turn

    def want(self) -> None:
        """Have the thread read: somebody waits who does not."""
        if not self._wanted.is_set():
            self._wanted.set()

    def look(self, waiting: Waiting[object], timeout: float | None) -> None:
        """Look for what is waited for, for a moment at most, if that is likely to find it; else `want`.

        Nothing else must be to come, which its caller would have to wait for.

        Raises:
            Exception: as `all`; or the thread was interrupted. Then the stream must end.
        """
        if self._soon and not self._turn.locked():
            try:
                with self._turn:  # no interrupt comes between the two
                    if self._expecting() == 1:
                        self._look(waiting, AWAKE if timeout is None else min(AWAKE, timeout))
            finally:
                self._hand_on()
        else:
            self.want()

    def _look(self, waiting: Waiting[object], seconds: float) -> None:
        end = time.monotonic() + seconds
        try:
            while not waiting.ended and time.monotonic() < end:
                if self._some() == 0:
                    break
                os.sched_yield()
        except BaseException:
            self._spoiled = (
                True  # half of a message may be lost, perhaps another's: nothing more is read
            )
            raise

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        self._soon = seconds < AWAKE

    def to_the_end(self) -> None:
        """Read what there still is, until the server has hung up."""
        self._to_the_end = True
        self.want()

    def end(self) -> None:
        """Hang up."""
        self._bypass.end()
        self.to_the_end()

    def close(self, let_go: Callable[[], None]) -> None:
        """Let go of the bypass, when nobody is about to read it."""
        with self._turn:
            let_go()

    def _is_needed(self) -> bool:
        return self._to_the_end or self._spoiled or self._expecting() > 0

    def _hand_on(self) -> None:
        if self._is_needed():
            self.want()

    def _some(self) -> int | None:
        """Receive something, and take it; its bytes, 0 if the server has hung up, None if nothing is there."""
        count = 0 if self._spoiled else self._bypass.receive(self._incoming.room())
        if count == 0:
            self._to_the_end = True
        for message in self._incoming.came(count) if count else ():
            self._take(message)
        return count
