"""How much more than was sent a call may make: pairs of rows, what broadcasting gives, and so on.

The parts of a sum stand in memory together until their gradient is taken, so
they have one allowance among them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_made: ContextVar[Counter[str] | None] = ContextVar("made", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """Count all that is asked for within as if one loss asked for it."""
    if _made.get() is not None:
        yield  # a sum within a sum
        return
    token = _made.set(Counter())
    try:
        yield
    finally:
        _made.reset(token)


def with_others(count: int, of: str) -> int:
    """The count, and all of its kind that was asked for before it within `shared`."""
    made = _made.get()
    if made is None:
        return count
    made[of] += count
    return made[of]
