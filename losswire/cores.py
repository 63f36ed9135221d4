"""How many cores there are."""

import math
import os
from pathlib import Path

#: What a container is given of them, in cgroup v2: microseconds, or "max", of so many.
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cores() -> float:
    """Cores that this process may use; those of the machine where the system does not say."""
    # macOS has no such thing.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(bound or 1, _quota())


def _quota() -> float:
    try:
        given, period = QUOTA.read_text().split()
        return math.inf if given == "max" else int(given) / int(period)
    except (OSError, ValueError):
        return math.inf
