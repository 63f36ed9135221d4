"""How every benchmark here measures, and what it prints."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import torch


def measure(run: Callable[[], object], *, repeats: int, warmup: int = 3) -> list[float]:
    """Seconds that each of `repeats` runs took, after `warmup` unrecorded ones."""
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def quantile(samples: list[float], q: float) -> float:
    """The sample below which a share `q` of all lie."""
    return sorted(samples)[min(len(samples) - 1, int(q * len(samples)))]


def machine() -> str:
    """One line that says where figures were taken."""
    cpu = platform.processor() or platform.machine()
    return (
        f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, grpcio {grpc.__version__}"
    )


def report(title: str, baseline: str, **samples: list[float]) -> None:
    """Print median and tail of each sample in ms, and its ratio to the baseline's median."""
    print(f"# {title}\n# {machine()}")
    base = statistics.median(samples[baseline])
    for name, seconds in samples.items():
        median = statistics.median(seconds)
        print(
            f"{name:12s} p50 {median * 1e3:9.3f} ms   p99 {quantile(seconds, 0.99) * 1e3:9.3f} ms"
            f"   {median / base:5.2f} x {baseline}   n={len(seconds)}"
        )


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run `python -m ARGUMENTS` until the block ends; its target, from a line "serving on TARGET"."""
    command = [sys.executable, "-u", "-m", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:  # noqa: S603
        assert running.stderr is not None  # noqa: S101  (said for the type checker)
        for line in running.stderr:
            if "serving on " in line:
                break
        else:
            raise SystemExit(f"{' '.join(command)} ended before it served")
        drain = subprocess.Popen(["cat"], stdin=running.stderr, stdout=subprocess.DEVNULL)  # noqa: S607
        try:
            yield line.split("serving on ")[1].split()[0]
        finally:
            running.terminate()
            running.wait()
            drain.wait()
