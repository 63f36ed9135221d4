"""A message of as many bytes, sent back by a bare grpc.aio server: what gRPC alone costs.

python -m benchmarks.planes.echoed FOLDER CASE TARGET [--way call]

The server is benchmarks/echo.py.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from benchmarks.planes.case import read
from benchmarks.planes.orders import obey
from benchmarks.planes.ours import CALLS, IN_FLIGHT

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Method = Callable[[bytes], Awaitable[bytes]]


async def seconds_each(method: Method, message: bytes, repeats: int) -> list[float]:
    """What each of so many calls took, one after another."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        await method(message)
        seconds.append(time.perf_counter() - started)
    return seconds


async def seconds_of_many(method: Method, message: bytes, repeats: int) -> list[float]:
    """What so many times CALLS calls took, IN_FLIGHT at a time."""

    async def caller() -> None:
        """One of those in flight."""
        for _ in range(CALLS // IN_FLIGHT):
            await method(message)

    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Call when ordered to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("case")
    parser.add_argument("target")
    parser.add_argument("--way", default="call", choices=["call", "submit"])
    args = parser.parse_args()
    written = read(args.folder, args.case)
    message = written.pred.tobytes() + written.target.tobytes()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    channel = grpc.aio.insecure_channel(args.target, OPTIONS)
    method: Any = channel.unary_unary("/losswire.v1.LossService/Compute")
    measure = {"call": seconds_each, "submit": seconds_of_many}[args.way]
    if len(loop.run_until_complete(method(message))) != len(message):
        raise SystemExit("the echo must answer with the message")
    obey(
        lambda: None,
        written,
        calls=CALLS if args.way == "submit" else 1,
        measure=lambda repeats: loop.run_until_complete(measure(method, message, repeats)),
    )


if __name__ == "__main__":
    main()
