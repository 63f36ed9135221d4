"""The model of what a call costs: its arithmetic, and its sentence."""

import math
from typing import Any

import numpy as np
import pytest

from lossclient.call import call_message
from losswire import cost, frame
from losswire.cost import Costs
from losswire.frame import Parts

#: Round numbers, so that sums can be followed.
ROUND = Costs(
    unary=1.0,
    streamed=0.5,
    inline=4e-6,
    stream=3e-6,
    pieces=2e-6,
    shared=1e-6,
    remote=1e-6,
    local=1e-5,
    steps=0.25,
)


def parts_of(rows: int, **more: Any) -> Parts:
    """A call with rows of 4 KiB."""
    pred = np.zeros((rows, 1024), np.float32)
    return call_message({"type": "L1Loss"}, pred, np.zeros(()), **more)


def test_the_bytes_up_are_those_of_the_message():
    """To the byte, and without the message being made."""
    parts = parts_of(3)

    assert cost.estimate(parts).up == len(frame.write(*parts))


def test_each_plane_has_its_own_part_of_the_sum():
    """A call's own seconds, its bytes at the plane's rate, and computing."""
    found = cost.estimate(parts_of(4096), costs=ROUND)
    both, computing = found.up + found.down, 16.777216

    assert found.seconds == pytest.approx(
        {
            "inline": 1 + both * 4e-6 + computing,
            "pieces": 1 + both * 2e-6 + computing,
            "shared": 0.5 + both * 1e-6 + computing,
        }
    )
    assert found.local_seconds == pytest.approx(0.25 + 167.77216)


def test_a_small_call_goes_over_a_stream():
    """Below 1 MiB there is nothing to be cut, or shared."""
    found = cost.estimate(parts_of(1), costs=ROUND)
    both = found.up + found.down

    assert found.seconds.keys() == {"inline", "stream"}
    assert found.seconds["inline"] - found.seconds["stream"] == pytest.approx(0.5 + both * 1e-6)


def test_a_network_is_as_slow_as_it_says():
    """Inline waits for both directions, pieces for the longer one; no memory is shared over it."""
    found = cost.estimate(parts_of(4096), bandwidth=1e5, latency=2.0, costs=ROUND)
    computing = 16.777216

    assert found.seconds == pytest.approx(
        {
            "inline": 3 + (found.up + found.down) / 1e5 + computing,
            "pieces": 3 + max(found.up, found.down) / 1e5 + computing,
        }
    )


def test_a_fast_network_is_no_faster_than_the_processes():
    """Where the network is faster than gRPC, gRPC is what takes the time."""
    near = cost.estimate(parts_of(4096), costs=ROUND)
    far = cost.estimate(parts_of(4096), bandwidth=1e12, costs=ROUND)

    assert far.seconds["pieces"] == near.seconds["pieces"]


def test_what_was_measured_counts_instead_of_the_model():
    """Seconds that are given are taken as they are."""
    found = cost.estimate(parts_of(1), local_seconds=7.0, remote_seconds=3.0, costs=ROUND)

    assert found.local_seconds == 7
    assert found.seconds["stream"] == pytest.approx(3.5 + (found.up + found.down) * 3e-6)


def test_the_sentence_says_whether_it_pays():
    """One sentence, with the times, the factor and the bytes."""
    parts = parts_of(1024)

    assert str(cost.estimate(parts, costs=ROUND)) == (
        "Going remote pays, 3.2 times as fast: 1.31e+04 ms through shared memory against "
        "4.22e+04 ms locally, with 4.0 MiB up and 4.0 MiB down."
    )
    assert str(cost.estimate(parts, local_seconds=1.0, costs=ROUND)) == (
        "Going remote does not pay, 13.1 times as slow: 1.31e+04 ms through shared memory against "
        "1e+03 ms locally, with 4.0 MiB up and 4.0 MiB down."
    )


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"bandwidth": 0.0}, "bandwidth must be above 0"),
        ({"bandwidth": math.nan}, "bandwidth must be above 0"),
        ({"latency": -1.0}, "latency must be at least 0"),
    ],
)
def test_a_network_that_cannot_be_is_refused(given: dict[str, float], rule: str):
    """No bandwidth, or a reply before its call."""
    with pytest.raises(ValueError, match=rule):
        cost.estimate(parts_of(1), **given)
