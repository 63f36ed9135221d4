"""Fused against local: value and gradient by our kernel, and by the eager torch of a trainer at home.

    python -m benchmarks.bench_fused [--rounds 7] [--threads 2]

In process: not measured are decode, queueing and the network. Local is plain
torch (benchmarks/local.py), eager is our own formula without its kernel, fused
is with it, both by `compute`, as the server calls it. Answers are checked
against local ones. What is aimed at, local / fused, in the same order: 4, 4,
1.7, 4.
"""

import argparse
import statistics
from collections.abc import Callable

import torch

from benchmarks import local
from benchmarks.bench_compute import alternating
from benchmarks.engine import CPU, job_of, kernels_for
from benchmarks.harness import report
from lossserver.compile import Kernels
from lossserver.compute import compute
from lossserver.job import Job

#: Each call, its local formula, and how often it is repeated a round.
CASES: dict[str, tuple[local.Formula, int]] = {
    "FocalLoss:8192x80": (local.focal, 10),
    "FocalLoss:200000x80": (local.focal, 1),
    "CrossEntropyLoss:4096x8192": (local.cross_entropy, 1),
    "GIoULoss:100000x4": (local.giou, 10),
}


def check(job: Job, formula: local.Formula, kernels: Kernels) -> None:
    """Raise unless the kernel answers, and as local torch does."""
    pred, target = job.call.inputs["pred"], job.call.inputs["target"]
    value, grad = local.step(formula, pred, target)
    (computed,) = compute([job], CPU, kernels)
    if not computed.fused:
        raise SystemExit(f"no fused kernel computed {job.name}")
    torch.testing.assert_close(computed.losses["loss"].item(), value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(computed.grads["pred"], grad, rtol=1e-3, atol=1e-8)


def main() -> None:
    """Measure each case in alternating rounds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 is its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for call, (formula, repeats) in CASES.items():
        job = job_of(call, 0)
        pred, target = job.call.inputs["pred"], job.call.inputs["target"]
        with kernels_for([job]) as kernels:
            check(job, formula, kernels)
            ways: dict[str, Callable[[], object]] = {
                "local": lambda: local.step(formula, pred, target),  # noqa: B023  (used at once)
                "eager": lambda: compute([job], CPU),  # noqa: B023
                "fused": lambda: compute([job], CPU, kernels),  # noqa: B023
            }
            seconds = alternating(ways, args.rounds, repeats)
        threads = torch.get_num_threads()
        report(f"{call} float32, value and gradient, {threads} threads", "local", **seconds)
        gains = [a / b for a, b in zip(seconds["local"], seconds["fused"], strict=True)]
        print(f"local / fused: {statistics.median(gains):.2f}\n")


if __name__ == "__main__":
    main()
