"""A device with streams that is not there, and what would go wrong on it.

Operations are computed at once, on the CPU (tests/losses/far.py). But who could
know of whom is kept as a real device would have it: a stream knows what was
queued on it before, what the host knew when it queued it, and what the events it
waited for knew (vector clocks). Two of which one writes what the other touches,
and neither knows of the other, are noted in `faults`; so is memory that torch
would lend again while another stream still uses it. Copies that the host waits
for are noted in `waits`.

What it cannot see: that copies truly overlap, and how long anything takes.
"""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.losses.far import DEVICE, Far, _Operations, _Python

HOST, OWN, INWARD, OUTWARD = "host", "own", "inward", "outward"

Clock = dict[str, int]


class Use(NamedTuple):
    """That somebody touched memory, when, and whether it wrote there."""

    low: int
    high: int
    who: str
    when: int
    writes: bool
    what: str


class Event:
    """What had happened on a stream when it was marked."""

    def __init__(self, streams: "Rehearsal", clock: Clock) -> None:
        self._streams = streams
        self.clock = clock

    def query(self) -> bool:
        """Whether it is done: surely if the host knows it, else as the test will have it."""
        known = self._streams.clocks[HOST]
        done = all(known.get(who, 0) >= when for who, when in self.clock.items())
        if done or self._streams.lucky():
            self.synchronize()
            return True
        return False

    def synchronize(self) -> None:
        """From now on the host knows."""
        self._streams.learn(HOST, self.clock)


class Rehearsal(_Operations):
    """Streams of the device that is not there.

    Parameters:
        lucky: whether an event that is asked for has just happened.
    """

    inward, outward = INWARD, OUTWARD

    def __init__(self, lucky: Callable[[], bool] = lambda: False) -> None:
        super().__init__([])
        self.lucky = lucky
        self.clocks: defaultdict[str, Clock] = defaultdict(dict)
        self.faults: list[str] = []
        self.waits: list[str] = []
        self._current = OWN
        self._uses: defaultdict[int, list[Use]] = defaultdict(list)
        self._slabs = (0, 0)
        self._lender: dict[int, str] = {}
        self._kept: defaultdict[int, set[str]] = defaultdict(set)
        self._living: defaultdict[int, int] = defaultdict(int)
        self._near: list[Tensor] = []  # so that no address is used twice

    def slabs_in(self, memory: Tensor) -> None:
        """Watch this host memory, too."""
        self._slabs = (memory.data_ptr(), memory.data_ptr() + len(memory))

    def own(self) -> str:
        """The stream on which the thread computes."""
        return OWN

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        """Where operations go meanwhile."""
        before, self._current = self._current, stream
        yield
        self._current = before

    def mark(self, stream: str) -> Event:
        """What has happened once all is done that was queued there so far."""
        self._tick(stream)
        return Event(self, dict(self.clocks[stream]))

    def after(self, stream: str, event: Event) -> None:
        """Let what is queued there from now on wait for an event."""
        self.learn(stream, event.clock)

    def keep(self, tensor: Far, stream: str) -> None:
        """Lend the tensor's memory to nobody before all is done that is queued there when it ends."""
        self._kept[_block(tensor.near)].add(stream)

    def learn(self, who: str, clock: Clock) -> None:
        """Let somebody know all that this clock knows."""
        own = self.clocks[who]
        for other, when in clock.items():
            own[other] = max(own.get(other, 0), when)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Compute it, and note who touched what."""
        found = super().__torch_dispatch__(operation, types, args, kwargs)
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        made = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        far = any(isinstance(one, Far) for one in [*given, *made])
        who = self._current if far else HOST
        for one in made:
            self._lend(one, who)
        if operation.is_view or operation._schema.name == "aten::empty":
            return found
        self._tick(who)
        written = {
            _block(_near(argument))
            for argument, described in zip(args, operation._schema.arguments, strict=False)
            if isinstance(argument, Tensor)
            and described.alias_info
            and described.alias_info.is_write
        }
        written |= {_block(_near(one)) for one in made}
        for one in {id(_near(one)): _near(one) for one in [*given, *made]}.values():
            self._touch(one, who, writes=_block(one) in written, what=operation._schema.name)
        crosses = far and any(not isinstance(one, Far) for one in [*given, *made])
        if crosses and not (kwargs or {}).get("non_blocking") and args[2:] != (True,):
            self.waits.append(operation._schema.name)
            self.learn(HOST, self.clocks[who])
        return found

    def _tick(self, who: str) -> None:
        self.learn(who, self.clocks[HOST])
        self.clocks[who][who] = self.clocks[who].get(who, 0) + 1

    def _lend(self, one: Tensor, who: str) -> None:
        if not isinstance(one, Far) or hasattr(one, "lent"):
            return
        one.lent = True
        block = _block(one.near)
        self._near.append(one.near)
        self._lender.setdefault(block, who)
        self._living[block] += 1
        weakref.finalize(one, self._ended, block).atexit = False

    def _ended(self, block: int) -> None:
        """What would happen if torch lent the memory again now, as it may."""
        self._living[block] -= 1
        if self._living[block]:
            return
        lender = self._lender[block]
        knows = {**self.clocks[lender]}
        for who, when in self.clocks[HOST].items():  # what it queues there next, it queues now
            knows[who] = max(knows.get(who, 0), when)
        for use in self._uses[block]:
            safe = use.who in (lender, *self._kept[block])
            if not safe and knows.get(use.who, 0) < use.when:
                self.faults.append(f"lent again by {lender} while {use.who} does {use.what}")

    def _touch(self, one: Tensor, who: str, *, writes: bool, what: str) -> None:
        low, high = _extent(one)
        block = _block(one)
        if block not in self._lender and not self._slabs[0] <= low < self._slabs[1]:
            return
        block = block if block in self._lender else 0
        use = Use(low, high, who, self.clocks[who][who], writes, what)
        for other in self._uses[block]:
            apart = other.high <= low or high <= other.low or not (writes or other.writes)
            if not apart and self.clocks[who].get(other.who, 0) < other.when:
                self.faults.append(f"{who} does {what} while {other.who} does {other.what}")
        self._uses[block].append(use)


@contextmanager
def rehearsal(streams: Rehearsal) -> Iterator[None]:
    """Let there be the device."""
    with _Python(), streams:
        yield


def _near(one: Tensor) -> Tensor:
    return one.near if isinstance(one, Far) else one


def _block(near: Tensor) -> int:
    return near.untyped_storage().data_ptr()


def _extent(near: Tensor) -> tuple[int, int]:
    if not near.numel():
        return near.data_ptr(), near.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(near.shape, near.stride(), strict=True))
    return near.data_ptr(), near.data_ptr() + (last + 1) * near.element_size()


__all__ = ["DEVICE", "Rehearsal", "rehearsal"]
