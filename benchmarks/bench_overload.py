"""Too many calls, and one caller who sends too many: who is still answered, and when?

    python -m benchmarks.bench_overload [--call FocalLoss:2048x80 FocalLoss:64x80]

Twice as many calls as the server can answer, in an open loop with a deadline.
What is aimed at: nine tenths of the peak are still answered, none is computed
after its deadline, the p99 of what is answered is within it. Then a modest
tenant with one caller, alone and beside a greedy one of 50 on a connection of
its own, which aims to leave it 40 % of its calls.

Servers and generators share this machine's cores, so small calls show the
generator's limit as well as the server's: it says how late it sent.
"""

import argparse
import functools
import shlex
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import load, machine, warm
from lossserver.bench.child import process
from tests.conftest import find_unused_port

#: Seconds that a measurement warms up.
WARMUP = 2.0


def counted(port: int) -> dict[str, float]:
    """What the server has counted so far, by name and labels."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("lossserver_"))
    return {name: float(value) for name, value in lines}


def told(found: dict[str, Any]) -> str:
    """The figures of a run in a line."""
    latency = found["latency"]
    in_ms = {name: "-" if one is None else f"{one * 1e3:.0f} ms" for name, one in latency.items()}
    server = found["server"]
    stages = ", ".join(
        f"{name} {server[name] * 1e3:.1f} ms"
        for name in ("decode", "queue", "compute")
        if server[name] is not None
    )
    return (
        f"{found['calls_per_second']:,.1f} calls/s, p50 {in_ms['p50']}, p99 {in_ms['p99']}, "
        f"max {in_ms['max']}, {found['statuses']}; means of the server: {stages}, "
        f"batch {server.get('batch') or 0:.1f}"
    )


def peak_of(target: str, call: str, args: argparse.Namespace) -> float:
    """Calls a second of a closed loop."""
    found = load(
        target,
        call,
        callers=args.callers,
        seconds=args.peak_seconds,
        warmup=WARMUP,
        plane=args.plane,
    )
    print(f"{call}: peak of {args.callers} callers: {told(found)}")
    return float(found["calls_per_second"])


def overload(target: str, port: int, call: str, args: argparse.Namespace) -> None:
    """Find the peak, offer more than that, and print what became of it."""
    peak = peak_of(target, call, args)
    before = counted(port)
    found = load(
        target,
        call,
        rate=args.times * peak,
        seconds=args.seconds,
        warmup=WARMUP,
        deadline=args.deadline,
        connections=args.connections,
        processes=args.processes,
        plane=args.plane,
    )
    after = counted(port)
    # Once more, since the machine's speed drifts.
    peak = max(peak, peak_of(target, call, args))
    generator = found["generator"]
    print(
        f"{call}: {args.times:g} x peak, deadline {args.deadline:g} s: {told(found)}\n"
        f"  goodput / peak: {found['calls_per_second'] / peak:.2f}\n"
        f"  generator: {max(generator['busy']):.0%} of a core, "
        f"{(generator['late']['p99'] or 0) * 1e3:.1f} ms late at p99"
    )
    grown = {name: after[name] - before.get(name, 0) for name in after}
    answered = sum(n for name, n in grown.items() if "calls_total" in name and '"OK"' in name)
    print(f"  computed and not answered: {grown['lossserver_batch_jobs_sum'] - answered:,.0f}")
    for name, count in grown.items():
        if count and name.startswith(("lossserver_shed", "lossserver_cancelled")):
            print(f"  {name}: {count:,.0f}")


def greed(target: str, call: str, args: argparse.Namespace) -> None:
    """Measure a modest tenant alone, and beside a greedy one, in alternating rounds."""
    for _ in range(args.rounds):
        one = functools.partial(
            load,
            target,
            call,
            callers=1,
            seconds=args.modest_seconds,
            warmup=WARMUP,
            plane=args.plane,
        )
        alone = one()
        with ThreadPoolExecutor() as pool:
            lasting = args.modest_seconds + 2 * WARMUP
            greedy = pool.submit(
                load,
                target,
                call,
                callers=args.greedy,
                seconds=lasting,
                warmup=0,
                plane=args.plane,
            )
            beside = one()
        share = beside["calls_per_second"] / alone["calls_per_second"]
        print(f"{call}: modest alone: {told(alone)}")
        print(f"{call}: modest beside {args.greedy}: {told(beside)}; share left {share:.2f}")
        print(f"{call}: the greedy: {told(greedy.result())}")


def main() -> None:
    """Measure each call, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--call", nargs="+", default=["FocalLoss:2048x80", "FocalLoss:64x80"])
    parser.add_argument("--plane", default="inline", help="inline or stream")
    parser.add_argument("--callers", type=int, default=64, help="of the closed loop")
    parser.add_argument("--peak-seconds", type=float, default=8)
    parser.add_argument("--times", type=float, default=2, help="of the peak that are offered")
    parser.add_argument("--seconds", type=float, default=30, help="of overload")
    parser.add_argument("--deadline", type=float, default=1)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--greedy", type=int, default=50, help="callers of the greedy tenant")
    parser.add_argument("--modest-seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="of modest and greedy")
    parser.add_argument("--serve", default="", help="flags of `lossserver serve`")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for kernels")
    args = parser.parse_args()

    port = find_unused_port()
    flags = ("--port", "0", "--device", "cpu", "--metrics-port", str(port))
    with process("lossserver", "serve", *flags, *shlex.split(args.serve)) as target:
        print(f"# {machine()}")
        for call in args.call:
            print(f"# {call}: fused: {warm(target, call, args.patience)}")
            overload(target, port, call, args)
            greed(target, call, args)


if __name__ == "__main__":
    main()
