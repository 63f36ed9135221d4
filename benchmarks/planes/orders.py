"""A peer is a process that computes when it is told to, and says how long each time took.

Orders and reports are lines of JSON. Between two orders a peer is stopped with all
its processes and costs nothing, so that rounds of many peers can alternate: those of
torch.distributed.rpc poll their memory even when nobody calls, and take a core.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.planes.case import Array, Written

Answer = tuple[float, Array]


def obey(
    run: Callable[[], Answer | None],
    written: Written,
    *,
    calls: int = 1,
    measure: Callable[[int], list[float]] | None = None,
    fused: Callable[[], bool] = lambda: True,
) -> None:
    """Run as often as each order says, until there is none.

    Parameters:
        run: gives the answer; None of a peer that computes nothing.
        written: which answer it must be.
        calls: made by one run.
        measure: seconds of that many runs, where `run` alone is not to be timed.
        fused: whether the last run was as fast as it will ever be: a kernel was ready for it.
    """
    # What libraries print must not come between the reports.
    reports, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({}), file=reports, flush=True)
    for order in sys.stdin:
        repeats = json.loads(order)["runs"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        answer, seconds = timed(run, repeats) if measure is None else (None, measure(repeats))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        if answer is not None:
            written.check(*answer)
        del answer
        seconds = [one / calls for one in seconds]
        report = {"seconds": seconds, "faults": faults / repeats, "fused": fused()}
        print(json.dumps(report), file=reports, flush=True)


def timed(run: Callable[[], Answer | None], repeats: int) -> tuple[Answer | None, list[float]]:
    """The last answer, and the seconds of each run."""
    seconds = []
    for _ in range(repeats):
        # As a trainer has it: the last answer is let go before there is a new one.
        answer = None
        started = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - started)
    return answer, seconds


class Peer:
    """A peer as its parent sees it.

    Attributes:
        seconds: a call, of every run but those of `warm`.
        faults: page faults a run in the peer's own process, of each order.
    """

    def __init__(self, running: "subprocess.Popen[str]") -> None:
        self._running = running
        self.seconds: list[float] = []
        self.faults: list[float] = []
        self._report()
        self.signal(signal.SIGSTOP)

    def signal(self, number: signal.Signals) -> None:
        """Signal all of its processes."""
        os.killpg(self._running.pid, number)

    def order(self, runs: int) -> None:
        """Let it run that often."""
        report = self._ordered(runs)
        self.seconds += report["seconds"]
        self.faults.append(report["faults"])

    def warm(self, patience: float) -> bool:
        """Let it run unrecorded, three times at least, until a kernel is ready; whether it is.

        Parameters:
            patience: seconds after which it need not be.
        """
        end = time.monotonic() + patience
        for _ in range(3):
            fused = self._ordered(1)["fused"]
        while not fused and time.monotonic() < end:
            fused = self._ordered(1)["fused"]
        return bool(fused)

    def _ordered(self, runs: int) -> Any:
        assert self._running.stdin is not None  # noqa: S101  (for mypy)
        self.signal(signal.SIGCONT)
        print(json.dumps({"runs": runs}), file=self._running.stdin, flush=True)
        report = self._report()
        self.signal(signal.SIGSTOP)
        return report

    def _report(self) -> Any:
        assert self._running.stdout is not None  # noqa: S101  (for mypy)
        line = self._running.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._running.args!r} must answer each order, and has ended")
        return json.loads(line)


@contextmanager
def peer(module: str, *arguments: str) -> Iterator[Peer]:
    """Run `python -m benchmarks.planes.MODULE ARGUMENTS` until the block ends."""
    # torch.distributed.rpc warns of what it uses itself, and of its server's end.
    quiet = ["-W", "ignore::UserWarning"]
    command = [sys.executable, *quiet, "-m", f"benchmarks.planes.{module}", *arguments]
    pipe = subprocess.PIPE
    environ = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    with subprocess.Popen(  # noqa: S603
        command, stdin=pipe, stdout=pipe, text=True, env=environ, start_new_session=True
    ) as running:
        try:
            yield Peer(running)
        finally:
            os.killpg(running.pid, signal.SIGCONT)
            # The end of its orders: it stops the server that it may have.
            running.communicate()
