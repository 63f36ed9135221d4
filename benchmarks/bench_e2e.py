"""A whole call, beside a bare gRPC echo of as many bytes and beside a naive server, in one run.

    python -m benchmarks.bench_e2e --rounds 5 [--serve='--compile auto']

Each server is a process on this machine's CPU, the load generator (`lossserver
bench`) is another. Ours is asked in two ways: by unary calls, as the others, and
over a stream, as our client asks. Rounds alternate, since the machine's speed
drifts more between minutes than the servers differ. What is aimed at: one caller
waits no longer than with the naive server, 64 callers get 1.8 times as many calls.
Not measured here: networks, large tensors, a device other than the CPU.
"""

import argparse
import shlex
import statistics
from collections.abc import Sequence

from benchmarks.harness import load, machine, warm
from lossserver.bench.child import process

CALL = "FocalLoss:64x80"


def compared(title: str, unit: str, found: dict[str, Sequence[float]]) -> None:
    """Print the median of each server's rounds, and the median of the rounds' ratios."""
    print(f"# {title}\n# {machine()}")
    for name, values in found.items():
        ratios = "".join(
            f"   {statistics.median(a / b for a, b in zip(values, found[other], strict=True)):5.2f}"
            f" x {other}"
            for other in ("echo", "naive")
        )
        rounds = " ".join(f"{value:.4g}" for value in values)
        print(f"{name:12s} {statistics.median(values):9.4g} {unit}{ratios}   rounds: {rounds}")


def main() -> None:
    """Measure in alternating rounds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--serve", default="", help="flags of `lossserver serve`")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for kernels")
    args = parser.parse_args()

    ours = ("lossserver", "serve", "--port", "0", "--device", "cpu", *shlex.split(args.serve))
    with (
        process("benchmarks.echo") as echo,
        process("benchmarks.naive") as naive,
        process(*ours) as own,
    ):
        ways = {
            "echo": (echo, "inline"),
            "naive": (naive, "inline"),
            "unary": (own, "inline"),
            "stream": (own, "stream"),
        }
        alone: dict[str, list[float]] = {name: [] for name in ways}
        many: dict[str, list[float]] = {name: [] for name in ways}
        print(f"# calls answered by a fused kernel: {warm(own, CALL, args.patience)}")
        for _ in range(args.rounds):
            for name, (target, plane) in ways.items():
                one = load(target, CALL, callers=1, seconds=args.seconds, warmup=0.5, plane=plane)
                alone[name].append(one["latency"]["p50"] * 1e3)
            for name, (target, plane) in ways.items():
                together = load(
                    target,
                    CALL,
                    callers=args.callers,
                    seconds=args.seconds,
                    warmup=1,
                    plane=plane,
                )
                many[name].append(together["calls_per_second"])
    compared(f"one caller: p50 of {CALL} float32, value and gradient", "ms", alone)
    compared(f"{args.callers} callers", "calls/s", many)


if __name__ == "__main__":
    main()
