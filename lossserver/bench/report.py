"""Figures → the text that is printed: what was run where, a table, and what lies behind it."""

import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import grpc

from lossserver.bench.figures import QUANTILES
from lossserver.bench.outcomes import SECONDS

#: Busier than this and a process of the generator measures itself.
TOO_BUSY = 0.9


def text(run: Mapping[str, Any]) -> str:
    """The report of a run."""
    width = max(len(call["call"]) for call in run["calls"])
    return "\n".join([*_head(run), "", *_table(run, width), "", *_behind(run, width)])


def _head(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {run['machine']}"
    yield f"# {run['server']}"
    load = (
        f"open loop: {run['rate']:g} calls a second"
        if run["loop"] == "open"
        else f"closed loop: {run['callers']} {_plural(run['callers'], 'caller')}"
    )
    yield (
        f"# {load} over {run['connections']} {_plural(run['connections'], 'connection')}, "
        f"{run['processes']} {_plural(run['processes'], 'process')}, "
        f"{run['seconds']:g} s after {run['warmup']:g} s of warm-up, deadline {run['deadline']:g} s"
    )


def _table(run: Mapping[str, Any], width: int) -> Iterator[str]:
    names = "".join(f"{name:>10}" for name in QUANTILES)
    yield f"{'':{width}}  calls/s{names}   MB/s up    down   (latency in ms)"
    for call in run["calls"]:
        latency = "".join(f"{_ms(one):>10}" for one in call["latency"].values())
        up, down = (call["bytes_per_second"][way] / 1e6 for way in ("up", "down"))
        yield (
            f"{call['call']:{width}} {call['calls_per_second']:8,.0f}{latency}{up:10.1f}{down:8.1f}"
        )


def _behind(run: Mapping[str, Any], width: int) -> Iterator[str]:
    for call in run["calls"]:
        counts = ", ".join(f"{name} {count:,}" for name, count in call["statuses"].items())
        yield f"{call['call']:{width}}  {counts or 'no call'}"
        said = {name: mean for name, mean in call["server"].items() if mean is not None}
        if said:
            means = ", ".join(f"{name} {_stage(name, mean)}" for name, mean in said.items())
            yield f"{'':{width}}  mean of the server: {means}"
    generator = run["generator"]
    line = f"generator: {max(generator['busy']):.0%} of a core"
    line += " in its busiest process" if run["processes"] > 1 else ""
    if generator["late"]["p99"] is not None:
        line += f"; sent {_ms(generator['late']['p99'])} ms late at p99"
    yield line
    if max(generator["busy"]) > TOO_BUSY:
        yield "generator: it is too busy, and measures itself: give it more --processes"


def machine() -> str:
    """One line that says where figures were taken."""
    cpu = platform.processor() or platform.machine()
    return (
        f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"grpcio {grpc.__version__}"
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _stage(name: str, mean: float) -> str:
    return f"{_ms(mean)} ms" if name in SECONDS else f"{mean:.2f}"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + ("es" if noun.endswith("s") else "s")
