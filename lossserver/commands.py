"""The commands: `lossserver serve | losses | health | bench | estimate`.

Flags come from the dataclasses of `config`. Each option can also be given as
LOSSSERVER_<OPTION> in the environment; a flag wins over it. What needs torch is
imported by the command that needs it, so that `health`, which a container runs
every few seconds, starts fast.
"""

import asyncio
import dataclasses
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_origin

import tyro

from lossserver.bench.options import Options
from lossserver.config import Config, Listen
from lossserver.unix import is_unix
from losswire import memory

PREFIX = "LOSSSERVER_"


class Line(logging.Formatter):
    """A line of the log: date, time, level, text. A second's date and time are made once."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._second = ("", 0)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time as logging writes it by default."""
        second = int(record.created)
        if self._second[1] != second:
            self._second = time.strftime(self.default_time_format, time.localtime(second)), second
        return f"{self._second[0]},{int(record.msecs):03d}"


def serve(config: Config) -> int:
    """Serve losses over gRPC until SIGTERM or Ctrl-C, then finish what is in flight.

    Listens on this machine alone unless --host says otherwise, which without
    TLS needs --insecure. Every option is also read from the environment, in
    capitals after LOSSSERVER_: LOSSSERVER_PORT is --port. A flag wins over it.
    """
    # Before torch and gRPC are imported: threads that are there keep the heaps they have.
    if config.memory.keep_memory:
        memory.keep(config.memory.keep_memory, arenas=1)
    from lossserver.restart import LostAgainError  # noqa: PLC0415
    from lossserver.server import serve as run  # noqa: PLC0415

    # What a line does not show need not be found out for it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  (as logging's own page advises)
    handler = logging.StreamHandler()
    handler.setFormatter(Line())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    try:
        restart = asyncio.run(run(config))
        if restart is not None:
            restart.go()
    except (OSError, ValueError, LostAgainError) as error:
        return _fail(str(error))
    return 0


def losses(name: Annotated[str, tyro.conf.Positional] = "") -> int:
    """Print the losses that can be served, or everything about one.

    Args:
        name: the loss to print; all names if it is left out.
    """
    from lossserver.card import card, catalogue, served, signature  # noqa: PLC0415
    from lossserver.registry import UnknownNameError  # noqa: PLC0415

    if not name:
        for found in catalogue().losses:
            print(f"{found.name:24} {found.summary}")  # noqa: T201
        return 0
    try:
        found = card(name)
    except UnknownNameError as error:
        return _fail(str(error))
    print(f"{signature(found)}\n\n{found.text}\n\nServed:\n    {served(found)}")  # noqa: T201
    return 0


def health(target: str = "", timeout: float = 2.0) -> int:
    """Ask a server whether it serves. Exits with 0 if it does, 1 if not.

    Args:
        target: where it listens, host:port or unix:/path; if left out, LOSSSERVER_HOST if that is a
            Unix socket, else this machine's LOSSSERVER_PORT, or 50051.
        timeout: seconds to wait for the answer.
    """
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    port = os.environ.get(PREFIX + "PORT", "")
    port = port if port.isdigit() else str(Listen.port)
    host = os.environ.get(PREFIX + "HOST", "")
    target = target or (host if is_unix(host) else f"localhost:{port}")
    # Not through a proxy: a container is often told of one that its own loopback is not behind.
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.RpcError as error:
            return _fail(f"{target} does not answer: {error.code().name}, {error.details()}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    print(status)  # noqa: T201
    return 0 if status == "SERVING" else 1


def bench(options: Annotated[Options, tyro.conf.arg(name="")]) -> int:
    """Measure how fast a server answers, and how many: closed loop or open.

    Without --target it starts a server of its own, which reads LOSSSERVER_<OPTION> as any does.
    """
    from lossserver.bench.calls import CallError  # noqa: PLC0415
    from lossserver.bench.child import BenchError  # noqa: PLC0415
    from lossserver.bench.run import run as measure  # noqa: PLC0415

    try:
        measure(options)
    except (BenchError, CallError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("stopped before there were figures")
    return 0


def estimate(
    call: Annotated[str, tyro.conf.Positional],
    bandwidth: float = 0.0,
    latency: float = 0.0,
    measure: bool = False,
) -> int:
    """Say what a call would cost, and whether going remote pays against computing it locally.

    Args:
        call: LOSS:SHAPE[/DTYPE], such as CrossEntropyLoss:4096x8192, or as `bench --call` has it.
        bandwidth: bytes a second each way, of the network to the server; 0 is on one machine.
        latency: seconds there and back over that network.
        measure: compute it on this machine's CPU, instead of going by the model.
    """
    from lossserver.bench.calls import CallError  # noqa: PLC0415
    from lossserver.estimate import estimate as estimated  # noqa: PLC0415

    try:
        found = estimated(call, bandwidth=bandwidth, latency=latency, measure=measure)
    except (CallError, ValueError) as error:
        return _fail(str(error))
    print(f"{'up':8} {found.up} bytes\n{'down':8} {found.down} bytes")  # noqa: T201
    for plane, seconds in {**found.seconds, "locally": found.local_seconds}.items():
        print(f"{plane:8} {seconds * 1e3:.3g} ms")  # noqa: T201
    print(found)  # noqa: T201
    return 0


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name; its exit code."""
    if arguments[:1] == ["serve"]:
        given = [*_from_environment(Config, os.environ), *arguments[1:]]
        config = tyro.cli(
            tyro.conf.OmitArgPrefixes[Config],
            prog="lossserver serve",
            description=inspect.getdoc(serve),
            args=given,
        )
        return serve(config)
    commands: dict[str, Callable[..., int]] = {
        "serve": serve,
        "losses": losses,
        "health": health,
        "bench": bench,
        "estimate": estimate,
    }
    code: int = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="lossserver",
        description="Send predictions, get the loss and its gradient back.",
        args=arguments,
    )
    return code


def _from_environment(cls: Any, environ: Mapping[str, str]) -> Iterator[str]:
    """The environment's options as flags, to stand before those of the command line.

    Of an option that takes several values they are apart by blanks.
    """
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(field.type):
            yield from _from_environment(field.type, environ)
        # Kubernetes sets LOSSSERVER_PORT=tcp://… in pods beside a Service of that name.
        elif not (value := environ.get(PREFIX + field.name.upper(), "tcp://")).startswith("tcp://"):
            flag = field.name.replace("_", "-")
            if get_origin(field.type) is tuple:
                yield from (f"--{flag}", *value.split())
            elif field.type is not bool:
                yield f"--{flag}={value}"
            elif value.lower() in ("1", "true", "yes", "on"):
                yield f"--{flag}"
            else:
                yield f"--no-{flag}"


def _fail(message: str) -> int:
    print(f"lossserver: {message}", file=sys.stderr)  # noqa: T201
    return 1
