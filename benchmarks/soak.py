"""Storms of calls through a real server: no innocent fails, and nothing is left behind.

    python -m benchmarks.soak --calls 20000

First with 1 % of the calls poisoned, then with half of them cancelled at random
moments; tests/server/test_storm.py does the same with fewer calls. Exits with 1
if anything was not as it must be. What it prints besides are the figures.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from tests.conftest import ServerProcess, find_unused_port
from tests.server.storm import WATCHED, Tally, cancelled, left_over, poisoned, resident


def main() -> None:
    """Let the storms pass over a server, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    calls = parser.parse_args().calls
    print(f"# {calls} calls each\n# {machine()}")
    port = find_unused_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        program = ("-m", "tests.server.stormy")
        server = ServerProcess(log, "--metrics-port", str(port), program=program)
        wrong = told("poisoned", poisoned(server.target, calls))
        # The first of them warm it up.
        asyncio.run(cancelled(server.target, calls // 4))
        before = resident(server.process.pid)
        wrong += told("cancelled", cancelled(server.target, calls))
        grown = resident(server.process.pid) / before - 1
        left = left_over(port)
        code = server.stop()
        late = int(WATCHED.search(log.read_text())[1])
    print(
        f"memory grew by {grown:.1%} (of {before >> 20} MiB), left over: {left}, exit code {code}"
    )
    print(f"computed after their cancellation was seen: {late}")
    sys.exit(1 if wrong or late or code or grown > 0.05 or any(left.values()) else 0)


def told(name: str, storm: Coroutine[Any, Any, Tally]) -> list[str]:
    """Print how a storm went; what went wrong."""
    started = time.perf_counter()
    tally = asyncio.run(storm)
    seconds = time.perf_counter() - started
    print(f"{name}: {dict(tally.ends)} in {seconds:.0f} s; {len(tally.wrong)} not as they must be")
    for wrong in tally.wrong[:5]:
        print(f"    {wrong}")
    return tally.wrong


if __name__ == "__main__":
    main()
