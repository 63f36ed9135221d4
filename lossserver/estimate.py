"""What a call would cost, for `lossserver estimate`: the model of losswire/cost.py, and a stopwatch."""

import time
from concurrent.futures import Future
from statistics import median

import torch

from lossserver.bench.calls import message_of
from lossserver.compute import compute
from lossserver.decode import decode
from losswire import cost, frame, memory
from losswire.cost import Estimate
from losswire.frame import Parts

#: Times that a call is computed; the first ones, in which torch gets ready, do not count.
WARM, TIMED = 2, 5


def estimate(written: str, *, bandwidth: float, latency: float, measure: bool) -> Estimate:
    """What the call costs that is written as lossserver/bench/calls.py says.

    Parameters:
        written: such as "CrossEntropyLoss:4096x8192".
        bandwidth: bytes a second each way; 0 is on one machine.
        latency: seconds there and back.
        measure: compute it here, as a trainer does and as a server does, instead of by the model.

    Raises:
        CallError: it cannot be understood, or made inputs for.
        ValueError: a number is out of range.
    """
    parts = frame.read(message_of(written, seed=0))
    local = remote = None
    if measure:
        local = _seconds(parts)
        memory.keep()
        remote = _seconds(parts)
        memory.keep(0)
    return cost.estimate(
        parts,
        bandwidth=bandwidth or None,
        latency=latency,
        local_seconds=local,
        remote_seconds=remote,
    )


def _seconds(parts: Parts) -> float:
    """Value and gradient on this machine's CPU, the formula step by step: the median."""
    seconds = []
    for _ in range(WARM + TIMED):
        job = decode(parts, None, Future())  # type: ignore[arg-type]  # nobody waits for it
        started = time.perf_counter()
        compute([job], torch.device("cpu"))
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM:])
