"""A loss server of our own, in a process of its own. Only kill -9 of the demo leaves it behind."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lossclient import Client, LossError, connect

#: Seconds until a server must listen. It takes about 3, most of it for importing torch.
START_TIMEOUT = 60.0

#: Seconds that it may take to stop when asked, before it is killed.
STOP_TIMEOUT = 10.0

#: Lines of its log that an error shows.
LOG_LINES = 20

COMMAND = (
    sys.executable,
    "-m",
    "lossserver",
    "serve",
    "--host=127.0.0.1",
    "--port=0",
    "--device=cpu",
    "--threads=1",
)

LISTENING = re.compile(r"serving on (\S+:\d+) device=(\S+)")


class ServerError(Exception):
    """The server did not start, or did not answer; the end of its log is in the message."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that listens.

    Attributes:
        target: "host:port".
        device: what it computes on.
        pid: its process.
    """

    target: str
    device: str
    pid: int


@contextmanager
def running_server() -> Iterator[Server]:
    """A server on a free loopback port; stopped on the way out, whatever happened.

    Raises:
        ServerError: it died, did not listen in time, or failed a call of the
            body.
    """
    with TemporaryDirectory() as folder:
        log = Path(folder, "server.log")
        with log.open("w") as stream:
            process = subprocess.Popen(  # noqa: S603
                COMMAND, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
            )
        try:
            yield _listening(process, log)
        except LossError as error:
            raise ServerError(_report(f"a call failed: {error}", process, log)) from error
        finally:
            _stop(process)


@contextmanager
def connected(target: str | None) -> Iterator[Client]:
    """A client of the server at `target`; if that is None, of one that runs as long."""
    with ExitStack() as stack:
        target = target or stack.enter_context(running_server()).target
        yield stack.enter_context(connect(target))


def _listening(process: subprocess.Popen[bytes], log: Path) -> Server:
    started = time.monotonic()
    while process.poll() is None:
        if found := LISTENING.search(log.read_text()):
            return Server(target=found[1], device=found[2], pid=process.pid)
        if time.monotonic() - started > START_TIMEOUT:
            raise ServerError(_report(f"no server after {START_TIMEOUT:.0f} s", process, log))
        time.sleep(0.05)
    raise ServerError(_report("the server did not start", process, log))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _report(what: str, process: subprocess.Popen[bytes], log: Path) -> str:
    status = process.poll()
    state = "still runs" if status is None else f"has ended with status {status}"
    command = " ".join(COMMAND[1:])
    last = log.read_text().splitlines()[-LOG_LINES:] or ["(nothing)"]
    return "\n".join([what, f"`python {command}` {state}; the end of its log:", "", *last])
