"""What batching and fusing save: formula and gradient of many small jobs, one by one and together.

    python -m benchmarks.bench_compute --jobs 64 --call FocalLoss:64x80

One computation thread, as the server has for small jobs. What is aimed at:
together and fused, 8 times as many calls a second as one by one in eager torch.
Not measured here: decode, queueing, the network (bench_e2e).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.engine import CPU, job_of, kernels_for
from benchmarks.harness import report
from lossserver.compute import compute


def alternating(
    ways: dict[str, Callable[[], object]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """For each way the seconds of one repetition, a median a round; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            taken = []
            for _ in range(repeats):
                start = time.perf_counter()
                way()
                taken.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(taken))
    # The first round warmed up.
    return {name: rounds[1:] for name, rounds in seconds.items()}


def main() -> None:
    """Measure in alternating rounds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--call", default="FocalLoss:64x80")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()

    torch.set_num_threads(1)
    jobs = [job_of(args.call, seed) for seed in range(args.jobs)]
    with kernels_for(jobs[:1]) as kernels:
        ways: dict[str, Callable[[], object]] = {
            "one_by_one": lambda: [compute([job], CPU) for job in jobs],
            "together": lambda: compute(jobs, CPU),
            "alone_fused": lambda: [compute([job], CPU, kernels) for job in jobs],
            "fused": lambda: compute(jobs, CPU, kernels),
        }
        seconds = alternating(ways, args.rounds, args.repeats)
    title = f"compute: {args.jobs} jobs {args.call}, value and gradient, one thread"
    report(title, "one_by_one", **seconds)
    for name, taken in seconds.items():
        gain = statistics.median(a / b for a, b in zip(seconds["one_by_one"], taken, strict=True))
        calls = args.jobs / statistics.median(taken)
        print(f"{name:12s} {calls:9,.0f} calls/s   {gain:6.2f} x as many as one by one")


if __name__ == "__main__":
    main()
