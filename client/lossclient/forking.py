"""Forks wait until what gRPC opens is open.

gRPC has a fork wait until its Python threads stand still. One that has sent a stream's
message stands still while it holds the lock that another needs to take what comes in, so
the fork waits for 5 s, and what the child then does with gRPC never ends (grpcio 1.85,
_channel.py; 3 to 6 of 100 forks within milliseconds of a stream's beginning). When a stream
has begun there is hardly ever such a moment again. A DataLoader forks whenever it likes.
"""

import functools
import os
import time

#: Seconds after which what was begun is there.
SETTLED = 0.1

_started = 0.0


def starting() -> None:
    """Take note that gRPC opens a stream. There has been a channel before."""
    global _started  # noqa: PLW0603  (of the process, as a fork is)
    _started = time.monotonic()
    _register()


@functools.cache
def _register() -> None:
    # After gRPC, which does it for the first channel: who comes last is asked first.
    os.register_at_fork(before=_settle)


def _settle() -> None:
    time.sleep(max(0.0, _started + SETTLED - time.monotonic()))
