"""How every benchmark here measures, and what it prints."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import grpc


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
    import torch  # noqa: PLC0415  (the processes that send calls import this module)

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


def load(target: str, call: str, **options: Any) -> dict[str, Any]:
    """What `lossserver bench` finds out about that call, and about itself; its options by name."""
    # Not above: the processes that send import this module, and would wait for torch.
    from lossserver.bench.options import Options  # noqa: PLC0415
    from lossserver.bench.run import measured  # noqa: PLC0415

    found = measured(Options(target=target, call=(call,), **options))
    return {**found["calls"][0], "generator": found["generator"]}


def warm(target: str, call: str, patience: float) -> float | None:
    """Send calls until fused kernels answer all of them, at most `patience` seconds.

    Returns:
        The share of calls that a fused kernel has answered in the end; None of a server that
        says nothing of it.
    """
    end = time.monotonic() + patience
    while True:
        found = load(target, call, callers=16, seconds=1, warmup=0.5)
        fused: float | None = found["server"].get("fused")
        if fused is None or fused == 1 or time.monotonic() > end:
            return fused
