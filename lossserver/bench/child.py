"""A server in a process of its own, for as long as it is measured."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class BenchError(RuntimeError):
    """The run could not take place."""


class Child(NamedTuple):
    """A server in another process: where it listens, and its process id."""

    target: str
    pid: int


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """`child`'s target alone."""
    with child(*arguments) as running:
        yield running.target


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Run `python -m ARGUMENTS` until the block ends; its target is from a line "serving on TARGET".

    Raises:
        BenchError: it ended before it served.
    """
    command = [sys.executable, "-u", "-m", *arguments]
    # To a file, as a service's log goes: a reader of a pipe would be woken at each line and take
    # its share of the machine.
    with (
        tempfile.NamedTemporaryFile("r") as log,
        subprocess.Popen(command, stderr=Path(log.name).open("w")) as running,  # noqa: S603
    ):
        said = ""
        while "serving on " not in said or not said.endswith("\n"):
            if running.poll() is not None:
                said += log.read()
                raise BenchError(f"{' '.join(arguments)} ended before it served:\n{said}")
            time.sleep(0.05)
            said += log.read()
        try:
            yield Child(said.split("serving on ")[1].split()[0], running.pid)
        finally:
            running.terminate()
