"""examples/resume.py: a killed trainer and a new server change nothing."""

import subprocess
import sys


def test_a_resumed_training_ends_as_an_uninterrupted_one():
    """Trainer killed, server replaced, training resumed from its checkpoint: the same weights."""
    run = subprocess.run(
        [sys.executable, "examples/resume.py"], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "weights differ by 0" in run.stdout
