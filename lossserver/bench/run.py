"""A run, read top to bottom: messages, a server, processes that send, their figures."""

import dataclasses
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc

from lossserver.bench import load, report
from lossserver.bench.calls import message_of
from lossserver.bench.child import BenchError, process
from lossserver.bench.figures import added, figures, quantiles
from lossserver.bench.load import Orders, Report
from lossserver.bench.options import Options
from losswire.v1 import loss_pb2 as pb

#: Seconds between the order to start and the start, for it to reach all processes.
AHEAD = 0.1

#: Characters of the progress bar.
WIDTH = 30


def run(options: Options) -> None:
    """Measure, and print or write what was found.

    Raises:
        CallError, BenchError: as `measured`.
    """
    found = measured(options)
    if options.json:
        written = json.dumps(found, indent=2)
        if options.json == "-":
            print(written)  # noqa: T201
            return
        Path(options.json).write_text(written + "\n")
    print(report.text(found))  # noqa: T201


def measured(options: Options) -> dict[str, Any]:
    """The figures of a run.

    Raises:
        CallError: a call is not written as it must be, or inputs must be given for it.
        BenchError: the server does not answer.
    """
    messages = tuple(message_of(call, options.seed) for call in options.call)
    with (
        nullcontext(options.target)
        if options.target
        else process("lossserver", "serve", "--port=0") as target
    ):
        server = _server(target)
        reports = _sent(orders(options, target, messages), options)
    return _found(options, server, reports)


def orders(options: Options, target: str, messages: tuple[bytes, ...]) -> list[Orders]:
    """What each process has to do: its share of the callers, the rate and the connections."""
    count = options.processes

    def share(whole: int, i: int) -> int:
        return whole // count + (i < whole % count)

    return [
        Orders(
            target=target,
            messages=messages,
            callers=share(options.callers, i),
            rate=options.rate / count,
            warmup=options.warmup,
            seconds=options.seconds,
            deadline=options.deadline,
            connections=max(1, share(options.connections, i)),
            plane=options.plane,
            # Distances between seeds that nobody will choose by hand.
            seed=options.seed + i * 1_000_003,
        )
        for i in range(count)
    ]


def _server(target: str) -> str:
    """What the server says it is."""
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as channel:
        ask: Any = channel.unary_unary(f"/{load.SERVICE}/GetServer")
        try:
            answer = pb.GetServerResponse.FromString(ask(b"", timeout=load.PATIENCE))
        except grpc.RpcError as error:
            # Whatever answers Compute can be measured.
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise BenchError(
                    f"{target} does not answer: {error.code().name}, {error.details()}"
                ) from None
            return f"{target}, which does not say what it is"
    return f"{target}, lossserver {answer.version} on {', '.join(answer.devices)}"


def _sent(every: list[Orders], options: Options) -> list[Report]:
    """Have the processes send, all from the same moment on; what they report."""
    spawn = multiprocessing.get_context("spawn")
    progress = spawn.Array("q", len(every), lock=False)
    pipes: list[Connection] = []
    processes = []
    try:
        for i, one in enumerate(every):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=load.run, args=(one, theirs, progress, i), daemon=True)
            process.start()
            # Only the process holds it then, so that its end is seen here.
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            if wrong := _received(pipe):
                raise BenchError(wrong)
        start = time.monotonic() + AHEAD
        for pipe in pipes:
            pipe.send(start)
        _watch(start, options, lambda: sum(progress))
        reports = [_received(pipe) for pipe in pipes]
        for process in processes:
            process.join()
        return reports
    finally:
        for process in processes:
            process.kill()


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise BenchError("a process that sends has died") from None


def _watch(start: float, options: Options, ended: Callable[[], int]) -> None:
    """Show a bar on stderr, if somebody sees it, until the time is over."""
    whole = options.warmup + options.seconds
    seen = sys.stderr.isatty()
    while (gone := time.monotonic() - start) < whole:
        time.sleep(min(0.5, whole - gone))
        if seen:
            done = min(WIDTH, max(0, round(WIDTH * gone / whole)))
            bar = "█" * done + "░" * (WIDTH - done)
            print(  # noqa: T201
                f"\r{bar} {max(0, gone):.0f} of {whole:g} s, {ended():,} calls ",
                end="",
                file=sys.stderr,
                flush=True,
            )
    if seen:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201


def _found(options: Options, server: str, reports: list[Report]) -> dict[str, Any]:
    """The figures of a run, with all that is needed to run it again."""
    kinds = [added(one) for one in zip(*(report.kinds for report in reports), strict=True)]
    named = dict(zip(options.call, kinds, strict=True))
    if len(named) > 1:
        named["all"] = added(kinds)
    late = [seconds for report in reports for seconds in report.late]
    return {
        **dataclasses.asdict(options),
        "connections": max(options.connections, options.processes),
        "command": sys.argv,
        "machine": report.machine(),
        "server": server,
        "loop": options.loop,
        "calls": [{"call": name, **figures(one, options.seconds)} for name, one in named.items()],
        "generator": {"busy": [one.busy for one in reports], "late": quantiles(late)},
    }
