"""The process that makes a kernel (make_kernel.py), as its server starts, awaits and ends it."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from lossserver.kernel import Recipe

#: Seconds that making a kernel may take; the slowest seen took 40.
PATIENCE = 600.0


class BusyError(Exception):
    """The machine had no time or memory to make a kernel; it may have later."""


class Compiler:
    """Makes one kernel at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def close(self) -> None:
        """Give up the kernel being made, and make no more."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()
            child.wait()  # a server that restarts in place would never be told that it ended

    def make(self, recipe: Recipe, made: Path) -> None:
        """Have a process leave the kernel in a directory, and what else it leaves in the parent.

        Raises:
            RuntimeError: it could not; the text is the last line it said.
            BusyError: it took too long, or was killed.
            OSError: it could not be started, or the disk is full.
        """
        order = pickle.dumps(recipe)
        with (
            tempfile.TemporaryFile(dir=made.parent) as said,
            _started(made, said.fileno()) as child,
        ):
            self._watch(child)
            try:
                child.communicate(order, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                raise BusyError(f"the compiler took over {PATIENCE:.0f} s") from None
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if -child.returncode in (signal.SIGKILL, signal.SIGTERM):
            raise BusyError("the compiler was killed")
        if child.returncode:
            raise RuntimeError((lines or [f"exit code {child.returncode}"])[-1])

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._child = child
            if self._closed:
                child.kill()


def _started(made: Path, said: int) -> subprocess.Popen[bytes]:
    scratch = str(made.parent)
    own = {
        "TMPDIR": scratch,
        "TORCHINDUCTOR_CACHE_DIR": scratch,
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    return subprocess.Popen(  # noqa: S603  (ourselves)
        [sys.executable, "-m", "lossserver.make_kernel", str(made)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=os.environ | own,
    )
