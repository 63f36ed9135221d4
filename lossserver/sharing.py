"""How much memory the server shares with its clients.

A region's memory is counted until nobody on our side looks at it any more, which
may be a while after its stream has ended. On the event loop, but for `make`.
"""

import mmap
import os
import weakref
from collections import deque

from lossserver.config import Sharing
from lossserver.metrics import Metrics
from losswire import region
from losswire.errors import MessageError, NotServedError, OverloadedError
from losswire.offer import AVAILABLE, sweep


class SharedMemory:
    """What all streams together may have.

    Parameters:
        sharing: how much.
        metrics: which say how much it is.
    """

    def __init__(self, sharing: Sharing, metrics: Metrics) -> None:
        self._most = sharing.max_shared_bytes if AVAILABLE else 0
        self._bytes = 0
        # Filled by whoever drops the last reference, in the middle of anything; so without a lock.
        self._dropped: deque[int] = deque()
        # In a thread that must not change anything.
        metrics.shared_bytes.watch(lambda: self._bytes - sum(list(self._dropped)))
        if self._most:
            sweep()

    @property
    def offered(self) -> bool:
        """Whether there is any."""
        return self._most > 0

    @property
    def bytes(self) -> int:
        """Bytes of all regions that somebody on our side looks at."""
        while self._dropped:
            self._bytes -= self._dropped.popleft()
        return self._bytes

    def take(self, size: int, own: int) -> None:
        """Count a region of so many bytes, for a stream that has `own` bytes already.

        Raises:
            NotServedError, MessageError, OverloadedError: it may not have it.
        """
        if not self.offered:
            raise NotServedError("this server shares no memory (--max-shared-bytes)")
        if size < 1:
            raise MessageError("must have at least 1 byte", field="region", given=size)
        # One stream leaves something for others.
        for most, used, whose in (
            (self._most // 2, own, "a stream"),
            (self._most, self.bytes, "all streams together"),
        ):
            if used + size > most:
                raise OverloadedError(
                    f"{whose} may have at most {most} bytes of shared memory (--max-shared-bytes)",
                    given=f"{used} and {size} more",
                )
        self._bytes += size

    def make(self, size: int) -> tuple[int, mmap.mmap]:
        """The descriptor of a region that was counted, and its memory. In any thread."""
        try:
            descriptor = region.make(size)
            try:
                memory = region.mapped(descriptor, size)
            except BaseException:
                os.close(descriptor)
                raise
        except BaseException:
            self._dropped.append(size)
            raise
        weakref.finalize(memory, self._dropped.append, size).atexit = False
        return descriptor, memory
