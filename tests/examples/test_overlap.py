"""examples/overlap.py, run as a user does."""

import re

from tests.examples.test_examples import run


def test_pipelined_steps_are_compared_with_plain_ones():
    """Both give the same gradients, or the example would have ended; it prints both times."""
    printed = run("overlap", steps=2)

    assert re.search(r"plain +[\d.]+ ms a step", printed)
    assert re.search(r"pipelined +[\d.]+ ms a step", printed)
