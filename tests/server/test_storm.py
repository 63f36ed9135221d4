"""Through a real server: bad calls harm only themselves, and cancelled ones leave nothing behind.

benchmarks/soak.py does the same with ten times the calls.
"""

import asyncio
import re

from tests.server.storm import WATCHED, cancelled, left_over, poisoned, resident

STORMY = ("-m", "tests.server.stormy")
CALLS = 2000


def test_the_innocent_notice_no_poison(serve):
    """Among calls of which some raise whatever there is, each other has its own right result."""
    server = serve(program=STORMY)
    tally = asyncio.run(poisoned(server.target, CALLS, share=0.02))

    assert tally.wrong == []
    assert {"INVALID_ARGUMENT", "INTERNAL", "RESOURCE_EXHAUSTED"} < set(tally.ends)
    assert server.stop() == 0


def test_cancelled_calls_leave_nothing_behind(serve, unused_port):
    """With half of all calls given up, the others are right, and no memory, call or work is left."""
    server = serve("--metrics-port", str(unused_port), program=STORMY)
    asyncio.run(cancelled(server.target, CALLS // 2))
    before = resident(server.process.pid)
    tally = asyncio.run(cancelled(server.target, CALLS))
    after = resident(server.process.pid)
    left = left_over(unused_port)

    assert tally.wrong == []
    assert tally.ends["CANCELLED"] > CALLS / 10
    assert left == {"calls": 0, "bytes": 0, "jobs": 0}
    assert after < 1.05 * before
    assert server.stop() == 0
    assert re.search(WATCHED, server.log.read_text())[1] == "0"
