"""Outcomes → the figures of a run, as they are printed and written to JSON."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lossserver.bench.outcomes import STAGES, Outcomes

#: Which latencies are told.
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def figures(outcomes: Outcomes, seconds: float) -> dict[str, Any]:
    """What became of the calls of one kind, or of all, in a window of so many seconds.

    Latencies and stages are in seconds; None where nothing was answered.
    """
    return {
        "calls_per_second": outcomes.answered / seconds,
        "latency": quantiles(outcomes.latencies),
        "statuses": dict(sorted(outcomes.statuses.items())),
        "server": {
            name: total / outcomes.told if outcomes.told else None
            for name, total in zip(STAGES, outcomes.stages, strict=True)
        },
        "bytes_per_second": {"up": outcomes.up / seconds, "down": outcomes.down / seconds},
    }


def quantiles(samples: Any) -> Mapping[str, float | None]:
    """For each quantile the least sample that so large a share of all are not above."""
    if not len(samples):
        return dict.fromkeys(QUANTILES)
    ranked = np.sort(samples)
    return {
        name: float(ranked[max(0, math.ceil(q * len(ranked)) - 1)]) for name, q in QUANTILES.items()
    }


def added(kinds: Sequence[Outcomes]) -> Outcomes:
    """All of them together."""
    total = Outcomes()
    for one in kinds:
        total.add(one)
    return total
