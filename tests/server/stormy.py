"""A server for storms: it has losses that raise, and it watches that nothing cancelled is computed.

`stormy.py serve ...`; its last line says how many jobs were computed after their
cancellation had been seen.
"""

import sys
from dataclasses import dataclass
from weakref import WeakSet

from lossserver.commands import run
from lossserver.isolate import Isolation
from lossserver.job import Job
from lossserver.losses.rows import Elementwise
from lossserver.pool import Pool
from lossserver.registry import LOSSES
from tests.server.jobs import raise_if_asked


@LOSSES.register_as("test.Stormy")
@dataclass(frozen=True, kw_only=True)
class Stormy(Elementwise):
    """A loss that may be told to raise.

    Inputs:
        pred: float [N, C].
        target: float [N, C].
    """

    def formula(self, pred, target):
        raise_if_asked(pred)
        return (pred - target) ** 2


@LOSSES.register_as("test.LoneStormy")
@dataclass(frozen=True, kw_only=True)
class LoneStormy(Stormy):
    """The same, computed alone.

    Inputs:
        pred: float [N, C].
        target: float [N, C].
    """

    def rows(self, call):
        self.check(call)


class Watch:
    """Counts the jobs that go on to be computed though their cancellation had been seen."""

    def __init__(self) -> None:
        self.seen: WeakSet[Job] = WeakSet()
        self.computed = 0
        drop, weed = Pool.drop, Isolation.weed

        def noted_drop(pool, job):
            self.seen.add(job)
            return drop(pool, job)

        def watched_weed(isolation, batch):
            gone = [job for job in batch if job in self.seen]
            late, going = weed(isolation, batch)
            self.computed += sum(job in gone for job in going)
            return late, going

        Pool.drop, Isolation.weed = noted_drop, watched_weed


if __name__ == "__main__":
    watch = Watch()
    code = run(sys.argv[1:])
    print(f"computed after they were cancelled: {watch.computed}")  # noqa: T201
    sys.exit(code)
