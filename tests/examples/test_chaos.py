"""examples/chaos.py: servers killed under a training change nothing."""

import re
import subprocess
import sys

ROW = re.compile(r"disturbed +(\d+) +(\d+) +(\d+)")


def test_no_step_is_lost_and_none_counts_twice():
    """Two servers, killed in turn: the weights and memories of an undisturbed run."""
    command = [sys.executable, "-m", "examples.chaos", "--seconds", "8", "--every", "1.5"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603

    assert run.returncode == 0, run.stdout + run.stderr
    steps, kills, repeated = map(int, ROW.search(run.stdout).groups())
    assert steps > 0
    assert kills >= 3
    assert repeated >= 1
