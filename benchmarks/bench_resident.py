"""A call with a teacher that stays with the server, beside the same call that sends it each time.

    python -m benchmarks.bench_resident --rounds 15 [--loss MSELoss] [--plane inline]

pred, float32 [rows, classes], and its gradient travel each time; the teacher is as
large as pred. So two of three tensors are left to send, and none of the third's
bytes is copied on the server. Not measured here: networks, where the bytes are all
that counts.
"""

import argparse
import functools
import statistics
import time
from typing import Any

import numpy as np

import lossclient
from benchmarks.harness import machine, measure
from lossclient.call import call_message
from lossserver.bench.child import process


def megabytes(size: int) -> str:
    """A number of bytes, to read."""
    return f"{size / 2**20:.1f} MiB"


def put(client: lossclient.Client, teacher: Any) -> lossclient.Handle:
    """The handle, and what it took to make it, printed."""
    started = time.perf_counter()
    handle = client.put(teacher)
    first = time.perf_counter()
    client.put(teacher)
    again = time.perf_counter()
    print(
        f"put {megabytes(handle.nbytes)}: {(first - started) * 1e3:.1f} ms, "
        f"the same bytes again {(again - first) * 1e3:.1f} ms"
    )
    return handle


def main() -> None:
    """Measure in alternating rounds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=2048)
    parser.add_argument("--loss", default="KnowledgeDistillationKLDivLoss")
    parser.add_argument(
        "--plane", default="", help="how calls travel; the client chooses by itself"
    )
    args = parser.parse_args()

    cfg = {"type": args.loss}
    rng = np.random.default_rng(0)
    pred, teacher = rng.standard_normal((2, args.rows, args.classes), dtype=np.float32)
    options = {"plane": args.plane} if args.plane else {}
    print(f"# {args.loss} [{args.rows}, {args.classes}] float32\n# {machine()}")
    with (
        process("lossserver", "serve", "--port", "0", "--device", "cpu") as target,
        lossclient.connect(target, **options) as client,
    ):
        targets = {"sent": teacher, "resident": put(client, teacher)}
        computing: dict[str, list[float]] = {name: [] for name in targets}
        seconds: dict[str, list[float]] = {name: [] for name in targets}

        def call(name: str) -> None:
            result = client.compute(cfg, pred, targets[name])
            computing[name].append(result.timings.compute)

        for _ in range(args.rounds):
            for name, own in seconds.items():
                own.extend(measure(functools.partial(call, name), repeats=1, warmup=3 * (not own)))
    base = statistics.median(seconds["sent"])
    for name, given in targets.items():
        median = statistics.median(seconds[name])
        print(
            f"{name:9s} p50 {median * 1e3:8.1f} ms  {median / base:5.2f} x sent   "
            f"of it computing {statistics.median(computing[name]) * 1e3:8.1f} ms   "
            f"up {megabytes(call_message(cfg, pred, given).size)}, "
            f"down {megabytes(pred.nbytes)}   n={args.rounds}"
        )


if __name__ == "__main__":
    main()
