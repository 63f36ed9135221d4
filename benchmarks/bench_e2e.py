"""A whole call, beside a bare grpc.aio echo of as many bytes, in the same run.

    python -m benchmarks.bench_e2e --rounds 5

Server and client are two processes on one machine. The echo is asked over the
same kind of channel as the client uses. Rounds alternate, since the machine's
speed drifts more between minutes than the two differ. Not measured here:
networks, large tensors, a device other than the CPU.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable

import grpc
import numpy as np

import lossclient
from benchmarks.harness import machine, measure, process, report
from lossclient.call import encode_call

Call = Callable[[], object]


def callers(target: str, echo: str) -> dict[str, Call]:
    """A FocalLoss call on [64, 80] float32, and an echo of its message."""
    generator = np.random.default_rng(0)
    pred = generator.standard_normal((64, 80), dtype=np.float32)
    target_ = generator.integers(0, 81, 64)
    config = {"type": "FocalLoss"}
    message = encode_call(config, {"pred": pred, "target": target_})
    client = lossclient.connect(target)
    bare = grpc.insecure_channel(echo).unary_unary("/Echo/Echo")
    return {
        "echo": lambda: bare(message, timeout=30),
        "lossserver": lambda: client.compute(config, pred, target_),
    }


def calls_per_second(call: Call, threads: int, seconds: float) -> float:
    """How many calls `threads` concurrent callers complete a second."""
    counts = [0] * threads
    end = time.monotonic() + seconds

    def work(i: int) -> None:
        while time.monotonic() < end:
            call()
            counts[i] += 1

    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    start = time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.monotonic() - start)


def main() -> None:
    """Print latency of one caller and throughput of many, both as ratios to the echo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=300, help="calls a round of one caller")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3, help="a round of many callers")
    args = parser.parse_args()

    server = ("lossserver", "serve", "--port", "0", "--device", "cpu")
    with process(*server) as target, process("benchmarks.echo") as echo:
        calls = callers(target, echo)
        latency: dict[str, list[float]] = {name: [] for name in calls}
        rates: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                latency[name] += measure(call, repeats=args.calls, warmup=50)
        report("one caller: FocalLoss [64, 80] float32, value and gradient", "echo", **latency)
        for _ in range(args.rounds):
            for name, call in calls.items():
                rates[name].append(calls_per_second(call, args.callers, args.seconds))
    print(f"# {args.callers} callers, threads of one process\n# {machine()}")
    base = statistics.median(rates["echo"])
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"{name:12s} {median:7.0f} calls/s   {median / base:5.2f} x echo   n={len(found)}")


if __name__ == "__main__":
    main()
