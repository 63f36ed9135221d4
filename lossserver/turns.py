"""Which calls of a stream's messages are begun at a time."""

from collections.abc import Iterator, Sequence

from losswire.errors import MessageError
from losswire.frame import read_varint
from losswire.runs import MOST, Run
from losswire.streaming import CALLS, Asked, Called, singly
from losswire.tensor import Buffer

#: Calls of one message that are begun before others have a turn: what is computed together at most,
#: twice.
TURN = 64


def turns(asked: Asked) -> Iterator[list[Called] | Run]:
    """The calls of a message that are not given up in it, so many as are begun at a time."""
    some: list[Called] = []
    for one in _wanted(asked):
        if isinstance(one, Run):
            if some:
                yield some
                some = []
            yield one
        else:
            some.append(one)
            if len(some) == TURN:
                yield some
                some = []
    if some:
        yield some


def _wanted(asked: Asked) -> Iterator[Called | Run]:
    """The calls but for those that are given up."""
    cancelled = set(asked.cancelled)
    for one in asked.calls:
        if not isinstance(one, Run):
            if one.id not in cancelled:
                yield one
        elif cancelled.isdisjoint(one.ids):
            yield one
        else:
            yield from (call for call in singly(one) if call.id not in cancelled)


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
