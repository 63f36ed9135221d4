"""Which calls of a stream's messages are begun at a time."""

from collections.abc import Iterator, Sequence

from losswire.errors import MessageError
from losswire.frame import read_varint
from losswire.runs import MOST, Run
from losswire.streaming import CALLS, Asked, Called
from losswire.tensor import Buffer

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


def joined(messages: Sequence[Buffer], most: int) -> Iterator[Buffer]:
    """The same serialised messages, those of one call each joined: so equal calls are found.

    Parameters:
        messages: serialised ComputeStreamRequests, in order.
        most: bytes of what is joined.
    """
    some: list[Buffer] = []
    size = 0
    for message in messages:
        own = len(message)
        alone = not _is_one_call(message)
        if some and (alone or len(some) == MOST or size + own > most):
            yield some[0] if len(some) == 1 else b"".join(some)
            some, size = [], 0
        if alone:
            yield message
        else:
            some.append(message)
            size += own
    if some:
        yield some[0] if len(some) == 1 else b"".join(some)


def _is_one_call(message: Buffer) -> bool:
    """Whether a message has one call and nothing else."""
    try:
        length, at = read_varint(memoryview(message), 1)
    except (IndexError, MessageError):
        return False
    return message[0] == CALLS and at + length == len(message)
