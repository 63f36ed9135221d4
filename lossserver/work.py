"""What is worked on for a stream: a call, or several as one."""

import asyncio
import math

from lossserver.account import Account
from lossserver.begun import Begun
from lossserver.front import Front
from losswire.runs import Run
from losswire.streaming import Called


class Work:
    """A call, or several that are worked on as one.

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

    def __init__(self, asked: Called | Run, front: Front) -> None:
        self.ids = asked.ids if isinstance(asked, Run) else (asked.id,)
        self.wanted = set(self.ids)
        self.size = asked.size
        timeout = math.inf if asked.timeout is None else asked.timeout
        # What is no number leaves no time.
        self.until = asyncio.get_running_loop().time() + (timeout if timeout > 0 else 0.0)
        self.place = front.admission.begin(len(self.ids))
        self.account = Account(metrics=front.metrics, calls=len(self.ids))
        self.work: Begun
        self.late = False

    def remaining(self) -> float | None:
        """Seconds until nobody waits for them; None is for ever."""
        if self.until == math.inf:
            return None
        return self.until - asyncio.get_running_loop().time()
