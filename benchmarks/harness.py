"""How every benchmark here measures, and what it prints."""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """Run `python -m ARGUMENTS` until the block ends; its target, from a line "serving on TARGET"."""
    command = [sys.executable, "-u", "-m", *arguments]
    # To a file, as a service's log goes: a reader of a pipe would be woken at each line and take
    # its share of the machine.
    with (
        tempfile.NamedTemporaryFile("r") as log,
        subprocess.Popen(command, stderr=Path(log.name).open("w")) as running,  # noqa: S603
    ):
        said = ""
        while "serving on " not in said or not said.endswith("\n"):
            if running.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended before it served:\n{said}")
            time.sleep(0.05)
            said += log.read()
        try:
            yield said.split("serving on ")[1].split()[0]
        finally:
            running.terminate()


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
