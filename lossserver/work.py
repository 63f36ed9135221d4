"""What is worked on for a stream: a call, or several as one."""

import asyncio
import math
from collections.abc import Sequence

from lossserver.account import Account
from lossserver.begun import Begun
from lossserver.front import Front
from losswire.streaming import Called


class Work:
    """A call, or several of one timeout that are worked on as one.

    Attributes:
        ids: chosen by the client.
        wanted: of these, those that somebody waits for.
        size: bytes of their requests.
        until: seconds of the loop's time after which nobody waits for them.
        place: what they take up in the server.
        account: what is kept of them.
        work: what is done about them.
        late: that was ended as the time was over.
    """

    __slots__ = ("account", "ids", "late", "place", "size", "until", "wanted", "work")

    def __init__(self, calls: Sequence[Called], front: Front) -> None:
        self.ids = [called.id for called in calls]
        self.wanted = set(self.ids)
        self.size = sum(len(called.request) for called in calls)
        timeout = math.inf if calls[0].timeout is None else calls[0].timeout
        # What is no number leaves no time.
        self.until = asyncio.get_running_loop().time() + (timeout if timeout > 0 else 0.0)
        self.place = front.admission.begin(len(calls))
        self.account = Account(metrics=front.metrics, calls=len(calls))
        self.work: Begun
        self.late = False

    def remaining(self) -> float | None:
        """Seconds until nobody waits for them; None is for ever."""
        if self.until == math.inf:
            return None
        return self.until - asyncio.get_running_loop().time()
