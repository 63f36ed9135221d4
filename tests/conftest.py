"""What many tests share: a real server in another process, and a client of it."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lossclient

READY = re.compile(r"serving on (\S+) ")

#: Seconds to import torch and bind, on a machine with a great deal else to do.
PATIENCE = 60


class ServerProcess:
    """`lossserver serve` on a free port, its log in a file; or what another program makes of that."""

    def __init__(
        self, log: Path, *flags: str, program: Sequence[str] = ("-m", "lossserver")
    ) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603  (our own command)
                [sys.executable, "-u", *program, "serve", "--port=0", *flags],
                stdout=out,
                stderr=subprocess.STDOUT,
                # A test that means kernels says --compile auto: others would not see when they come.
                env=os.environ | {"LOSSSERVER_DEVICE": "cpu", "LOSSSERVER_COMPILE": "off"},
            )
        self.target = self.find(READY)[1]

    def find(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first match in the log, waited for by reading the log as it grows."""
        with self.log.open() as lines:
            seen = ""
            while self.process.poll() is None or not seen.endswith("\n"):
                seen += lines.read()
                if match := pattern.search(seen):
                    return match
                # Not a wait for time to pass: the process is asked whether it still runs.
                try:
                    self.process.wait(0.01)
                except subprocess.TimeoutExpired:
                    continue
                break
        raise AssertionError(f"{pattern.pattern} is not in the log:\n{self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers of a test's own, with flags, and kills what is left of them."""
    started: list[ServerProcess] = []

    def start(*flags: str, **more: Any) -> ServerProcess:
        started.append(ServerProcess(tmp_path / f"server{len(started)}.log", *flags, **more))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that do not harm it. It must still end well after all of them."""
    running = ServerProcess(tmp_path_factory.mktemp("server") / "log")
    yield running

    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[lossclient.Client]:
    """A client of the shared server."""
    with lossclient.connect(server.target) as connected:
        yield connected


@pytest.fixture
def unused_port() -> int:
    """A TCP port for a test of its own."""
    return find_unused_port()


#: Below what Linux hands out by itself (ip_local_port_range), above what others listen on.
#: A port of its own range may be another connection's before a server of ours binds it, and a
#: client that dials it may by chance be given it as its own end, and be connected to itself.
PORTS = range(16384, 32768)


def find_unused_port() -> int:
    """A TCP port of this machine that nobody has, and that nobody is given who asks for any."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", secrets.choice(PORTS))) as found:
            port: int = found.getsockname()[1]
            return port


CASE = re.compile(r"test_golden(?P<of>\w*)\.py::\w+\[(?P<case>.+)-(f64|f32|f16|bf16)\]$")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many golden cases were checked."""
    found = [CASE.search(report.nodeid) for report in terminalreporter.getreports("passed")]
    for of, what in (("", "losses"), ("_heads", "heads")):
        checks = [match["case"] for match in found if match and match["of"] == of]
        if checks:
            cases = len(set(checks))
            terminalreporter.write_line(
                f"golden: {cases} cases of {what}, {len(checks)} checks through a running server"
            )
