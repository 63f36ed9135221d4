"""Small calls over a stream, beside a bare unary gRPC echo of as many bytes and a naive server, in one run.

    python -m benchmarks.bench_stream --rounds 5 [--serve='--compile auto']

Each server is a process on this machine's CPU, this one is the client. Rounds
alternate. Ours are whole calls of the client, arrays in and arrays out; echo and
naive server are sent ready bytes by grpc.aio, and what comes back is not looked at.
What is aimed at: one caller waits no longer than for the echo, 64 calls in flight
are twice as many a second, lists of 64 four times.
Not measured here: networks, large tensors, a device other than the CPU.
"""

import argparse
import asyncio
import shlex
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

import lossclient
from benchmarks.harness import machine, quantile, warm
from lossclient.call import call_message
from lossserver.bench.child import process
from losswire import frame

FOCAL = {"type": "FocalLoss"}
CALL = "FocalLoss:64x80"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]

Found = dict[str, list[float]]


class Raw:
    """Ready bytes to a unary method, by grpc.aio.

    Parameters:
        target: where it is.
        message: what is sent each time.
    """

    def __init__(self, target: str, message: bytes) -> None:
        self._target = target
        self._message = message

    def alone(self, seconds: float) -> float:
        """Median seconds of a call, one after the other."""
        return asyncio.run(self._alone(seconds))

    def many(self, seconds: float, callers: int) -> float:
        """Calls a second of so many callers."""
        return asyncio.run(self._many(seconds, callers))

    async def _alone(self, seconds: float) -> float:
        async with grpc.aio.insecure_channel(self._target, OPTIONS) as channel:
            call: Any = channel.unary_unary("/losswire.v1.LossService/Compute")
            took = []
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                await call(self._message)
                took.append(time.perf_counter() - start)
        return quantile(took, 0.5)

    async def _many(self, seconds: float, callers: int) -> float:
        async with grpc.aio.insecure_channel(self._target, OPTIONS) as channel:
            call: Any = channel.unary_unary("/losswire.v1.LossService/Compute")
            await call(self._message)
            start = time.perf_counter()
            done = 0

            async def caller() -> None:
                nonlocal done
                while time.perf_counter() < start + seconds:
                    await call(self._message)
                    done += 1

            await asyncio.gather(*(caller() for _ in range(callers)))
            return done / (time.perf_counter() - start)


def alone(client: lossclient.Client, call: tuple[Any, ...], seconds: float) -> float:
    """Median seconds of `compute`, one after the other."""
    took = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        client.compute(*call)
        took.append(time.perf_counter() - start)
    return quantile(took, 0.5)


def submitted(
    client: lossclient.Client, call: tuple[Any, ...], seconds: float, callers: int
) -> float:
    """Calls a second of `submit`, with so many in flight."""
    start = time.perf_counter()
    flying = deque(client.submit(*call) for _ in range(callers))
    done = 0
    while time.perf_counter() < start + seconds:
        flying.popleft().result()
        flying.append(client.submit(*call))
        done += 1
    took = time.perf_counter() - start
    for one in flying:
        one.result()
    return done / took


def listed(client: lossclient.Client, call: tuple[Any, ...], seconds: float, callers: int) -> float:
    """Calls a second of `compute_many` of so many, one list after the other."""
    start = time.perf_counter()
    done = 0
    while time.perf_counter() < start + seconds:
        done += len(client.compute_many([call] * callers))
    return done / (time.perf_counter() - start)


def report(title: str, found: Found, unit: str, scale: float) -> None:
    """Print the median of each one's rounds, and the median of the rounds' ratios."""
    print(f"# {title}")
    for name, values in found.items():
        ratios = "".join(
            f"   {statistics.median(a / b for a, b in zip(values, found[other], strict=True)):5.2f}"
            f" x {other}"
            for other in ("echo", "naive")
        )
        rounds = " ".join(f"{value * scale:.4g}" for value in values)
        print(f"{name:13s} {statistics.median(values) * scale:9.4g} {unit}{ratios}   ({rounds})")


def measured(
    ways: dict[str, Callable[[], float]], rounds: int, warmup: dict[str, Callable[[], float]]
) -> Found:
    """What each way takes, in alternating rounds."""
    for way in warmup.values():
        way()
    found: Found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def main() -> None:
    """Measure in alternating rounds, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement")
    parser.add_argument("--serve", default="", help="flags of `lossserver serve`")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for kernels")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((64, 80), np.float32), rng.integers(0, 81, 64)
    call = (FOCAL, *arrays)
    message = frame.write(*call_message(*call))
    ours = ("lossserver", "serve", "--port", "0", "--device", "cpu", *shlex.split(args.serve))
    with (
        process("benchmarks.echo") as echo_at,
        process("benchmarks.naive") as naive_at,
        process(*ours) as own,
        lossclient.connect(own) as client,
    ):
        print(f"# {machine()}")
        print(f"# calls answered by a fused kernel: {warm(own, CALL, args.patience)}")
        echo, naive = Raw(echo_at, message), Raw(naive_at, message)
        seconds, callers = args.seconds, args.callers
        ones = {
            "echo": lambda: echo.alone(seconds),
            "naive": lambda: naive.alone(seconds),
            "compute": lambda: alone(client, call, seconds),
        }
        report(
            f"one caller, {CALL} float32: median of a call",
            measured(ones, args.rounds, ones),
            "ms",
            1e3,
        )
        many = {
            "echo": lambda: echo.many(seconds, callers),
            "naive": lambda: naive.many(seconds, callers),
            "submit": lambda: submitted(client, call, seconds, callers),
            "compute_many": lambda: listed(client, call, seconds, callers),
        }
        report(f"{callers} in flight: calls a second", measured(many, args.rounds, many), "/s", 1.0)


if __name__ == "__main__":
    main()
