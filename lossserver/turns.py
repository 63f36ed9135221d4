"""Which calls of a stream's message are begun at a time."""

from collections.abc import Iterator, Sequence

from losswire.runs import Run
from losswire.streaming import Asked, Called

#: Calls of one message that are begun before others have a turn: what is computed together at most,
#: twice.
TURN = 64


def turns(asked: Asked) -> Iterator[tuple[Sequence[Called], Run | None]]:
    """The calls of a message that are not given up in it, so many as are begun at a time."""
    if cancelled := set(asked.cancelled):
        asked = Asked([call for call in asked.calls if call.id not in cancelled])
    at = 0
    while at < len(asked.calls):
        run = asked.runs.get(at)
        if run is not None:
            end = at + len(run.ids)
        else:
            ends = (place for place in asked.runs if place > at)
            end = min(at + TURN, next(ends, len(asked.calls)))
        yield asked.calls[at:end], run
        at = end
