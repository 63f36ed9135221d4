"""Formula → fused kernel, in the background: nobody ever waits for a compiler.

    find    gives the kernel of a key if it is there. If not, eager torch answers
            meanwhile, and a key that is asked for often enough gets a kernel.
    drop    a kernel that raised is used no more.

Kernels are made one at a time by a process of their own (kernel.py), which also
checks them against eager torch. They are kept on disk, so a restart finds them.
What cannot be compiled, crashes the compiler or disagrees is not tried again:
eager torch stays.
"""

import logging
import os
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Literal, Self

from lossserver.config import Fusing
from lossserver.kernel import Kernel, Recipe, compare, load
from lossserver.metrics import Metrics
from lossserver.shelf import Shelf

log = logging.getLogger("lossserver")

#: Batches of a key that eager torch computes before a kernel is worth some seconds of a core.
OFTEN = 8

#: Keys whose batches are counted, or that are known not to compile. What strangers send must not
#: fill the memory.
KEYS = 4096

#: Kernels that wait to be made. Whoever comes later counts anew.
WAITING = 64

#: Seconds that making one may take; the slowest seen took 40.
PATIENCE = 600.0


class Kernels:
    """The kernels of one server, whatever its devices. Any thread may ask.

    Parameters:
        options: where they are kept, and how many.
        metrics: where their fate is counted.
    """

    def __init__(self, options: Fusing, metrics: Metrics) -> None:
        self._shelf = Shelf(options.kernel_cache)
        self._most = options.max_kernels
        self._metrics = metrics
        self._lock = threading.Lock()
        self._ready: OrderedDict[Hashable, Kernel] = OrderedDict()
        self._asked: OrderedDict[Hashable, float] = OrderedDict()
        self._making: set[Hashable] = set()
        self._orders: queue.Queue[tuple[Hashable, Recipe]] = queue.Queue()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        threading.Thread(target=self._work, name="compile", daemon=True).start()

    def find(self, key: Hashable, recipe: Callable[[], Recipe]) -> Kernel | None:
        """The kernel of that key; None while there is none, and eager torch must do.

        Parameters:
            key: equal keys have one kernel.
            recipe: what to make it of; asked for once, if it comes to that.
        """
        with self._lock:
            if (kernel := self._ready.get(key)) is not None:
                self._ready.move_to_end(key)
                return kernel
            if key in self._making or len(self._making) >= WAITING or self._closed:
                return None
            asked = self._asked[key] = self._asked.get(key, 0) + 1
            self._asked.move_to_end(key)
            if len(self._asked) > KEYS:
                self._asked.popitem(last=False)
            if asked != OFTEN:
                return None
            self._making.add(key)
        self._metrics.kernel("wanted")
        self._orders.put((key, recipe()))
        return None

    def prepare(self, key: Hashable, recipe: Recipe) -> bool:
        """Make the kernel of that key now; whether there is one."""
        with self._lock:
            self._making.add(key)
        self._metrics.kernel("wanted")
        self._make(key, recipe)
        with self._lock:
            return key in self._ready

    def drop(self, key: Hashable, error: Exception) -> None:
        """Use the kernel of that key no more, since it raised; eager torch does, for good."""
        with self._lock:
            self._ready.pop(key, None)
            self._asked[key] = OFTEN
        self._metrics.kernel("failed")
        log.warning("a kernel raised and is dropped: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Make no more kernels, and give up the one being made."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.kill()
            child.wait()  # a server that restarts in place would never be told that it ended
        self._shelf.close()

    def _work(self) -> None:
        while not self._closed:
            self._make(*self._orders.get())

    def _make(self, key: Hashable, recipe: Recipe) -> None:
        started = time.perf_counter()
        name = type(recipe.fused.formula).__name__
        try:
            kernel, event = self._found_or_made(recipe)
            compare(kernel, recipe.fused, [one.to(recipe.device) for one in recipe.example])
        except Exception as error:  # noqa: BLE001  (whatever it is, eager torch stays)
            self._refuse(key, name, error)
        else:
            self._keep(key, kernel)
            self._metrics.kernel(event)
            seconds = time.perf_counter() - started
            log.info("kernel loss=%s %s seconds=%.1f", name, event, seconds)

    def _found_or_made(self, recipe: Recipe) -> tuple[Kernel, Literal["loaded", "compiled"]]:
        where = self._shelf.place_of(recipe)
        if where.exists():
            try:
                return load(where), "loaded"
            except (OSError, ValueError) as error:
                log.warning("a kernel on disk is broken and is made anew: %s", error)
                shutil.rmtree(where)
        self._compile(recipe, where)
        return load(where), "compiled"

    def _keep(self, key: Hashable, kernel: Kernel) -> None:
        with self._lock:
            self._making.discard(key)
            self._ready[key] = kernel
            evicted = len(self._ready) > self._most
            if evicted:
                old, _ = self._ready.popitem(last=False)
                self._asked.pop(old, None)  # it may come back: from disk it costs little
        if evicted:
            self._metrics.kernel("evicted")

    def _refuse(self, key: Hashable, name: str, error: Exception) -> None:
        with self._lock:
            self._making.discard(key)
            self._asked[key] = OFTEN
        if not self._closed:
            self._metrics.kernel("disagreed" if "DisagreesError" in repr(error) else "failed")
            log.warning("kernel loss=%s not used, eager torch stays: %s", name, error)

    def _compile(self, recipe: Recipe, where: Path) -> None:
        """Have a process make the kernel.

        Raises:
            RuntimeError: it could not; the text is the last line it said.
            OSError: it could not be started, or the disk is full.
        """
        started = time.perf_counter()
        with self._shelf.adding(where) as made:
            if said := self._child_says(recipe, made):
                raise RuntimeError(said)
        self._metrics.compiled(time.perf_counter() - started)

    def _child_says(self, recipe: Recipe, made: Path) -> str:
        """What the process that makes a kernel says of why it did not; empty if it did."""
        command = [sys.executable, "-m", "lossserver.kernel", str(made)]
        order = pickle.dumps(recipe)
        own = {
            "TORCHINDUCTOR_CACHE_DIR": str(self._shelf.scratch),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        with (
            tempfile.TemporaryFile() as said,
            subprocess.Popen(  # noqa: S603  (ourselves)
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=os.environ | own,
            ) as child,
        ):
            self._watch(child)
            try:
                child.communicate(order, timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                return f"the compiler took over {PATIENCE:.0f} s"
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        return "" if child.returncode == 0 else (lines or [f"exit code {child.returncode}"])[-1]

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._child = child
            if self._closed:
                child.kill()
