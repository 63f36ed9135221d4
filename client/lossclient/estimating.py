"""Whether a remote loss pays, before anything is sent, or after a look at a server.

The model and its constants are those of losswire/cost.py.
"""

import math
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from lossclient.call import call_message
from lossclient.directly import pieces
from lossclient.planes import inline, streamed
from lossclient.regions import UnsharedError
from lossclient.reply import decode_reply
from lossclient.resident import Way
from lossclient.shared import shared
from lossclient.terms import USUAL, Terms
from lossclient.transport import Transport
from losswire import cost
from losswire.cost import Costs, Estimate
from losswire.errors import NotServedError

#: Calls that are measured, of which the median counts; rows of 4 KiB of a small one, of the largest
#: that a stream carries, and of a large one.
CALLS = 5
SMALL, MIDDLE, LARGE = 1, 448, 2048


def estimate(
    cfg: Mapping[str, Any],
    pred: Any,
    target: Any = None,
    weight: Any = None,
    *,
    bandwidth: float | None = None,
    latency: float = 0.0,
    local_seconds: float | None = None,
    remote_seconds: float | None = None,
    costs: Costs | None = None,
    terms: Terms = USUAL,
    **more: Any,
) -> Estimate:
    """What `Client.compute` with these arguments would cost, and whether it pays. Nothing is sent.

    Parameters:
        cfg, pred, target, weight, more: as of `Client.compute`. Only sizes matter, but where
            integers travel in as few bytes as hold them.
        bandwidth: bytes a second each way, of the network to the server; None is none: both on
            one machine.
        latency: seconds there and back over that network.
        local_seconds: what value and gradient take locally, measured; None goes by the model,
            which is of cross entropy by eager torch on a CPU.
        remote_seconds: what they take on the server; likewise.
        costs: the model's constants; None are those that were measured on the developer's machine.
        terms: what the client asks of each of its calls.

    Raises:
        RequestError: a call that could not be sent.
        ValueError: a number is out of range.
    """
    return cost.estimate(
        call_message(cfg, pred, target, weight, terms=terms, **more),
        bandwidth=bandwidth,
        latency=latency,
        local_seconds=local_seconds,
        remote_seconds=remote_seconds,
        costs=costs,
    )


def learned(transport: Transport) -> Costs:
    """The costs of calls to a server, measured now: some dozens of MSELoss, of 12 KiB to 24 MiB.

    What the server computed for is not in them. A way that it does not offer costs
    for ever. Over a network the costs are those of the network, too.

    Raises:
        LossError: the server cannot be asked.
    """
    unary, inlined = _measured(transport, inline)
    own, streamed_ = _offered(transport, streamed, MIDDLE)
    _, pieced = _offered(transport, pieces)
    _, shared_ = _offered(transport, shared)
    return Costs(
        unary=unary,
        streamed=min(own, unary),
        inline=inlined,
        stream=min(streamed_, inlined),
        pieces=pieced,
        shared=shared_,
    )


def _offered(transport: Transport, way: Way, large: int = LARGE) -> tuple[float, float]:
    try:
        return _measured(transport, way, large)
    except (NotServedError, UnsharedError):
        return math.inf, math.inf


def _measured(transport: Transport, way: Way, large: int = LARGE) -> tuple[float, float]:
    """Seconds of a call of next to no bytes, and of moving a byte: of a call of so many rows."""
    small, whole = (_seconds(transport, way, rows) for rows in (SMALL, large))
    # pred and target there, a gradient back.
    return small, max(0.0, whole - small) / (3 * (large - SMALL) * 4096)


def _seconds(transport: Transport, way: Way, rows: int) -> float:
    zeros = np.zeros((rows, 1024), np.float32)
    parts = call_message({"type": "MSELoss"}, zeros, zeros)
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        reply = transport.run(lambda line, left: way(parts, line, left), 60.0, size=parts.size)
        taken = time.perf_counter() - started
        timings = decode_reply(reply, lambda _: 0.0).timings
        del reply
        seconds.append(taken - timings.queue - timings.compute)
    return max(0.0, median(seconds))
