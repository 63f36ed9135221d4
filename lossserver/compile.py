"""Formula → fused kernel, in the background: nobody ever waits for a compiler.

    find    gives the kernel of a key if it is there. If not, eager torch answers
            meanwhile, and a key that is asked for often enough gets a kernel.
    drop    a kernel that raised is used no more.

Kernels are made one at a time by a process of their own (make_kernel.py), which
also checks them against eager torch. They are kept on disk, so a restart finds
them. What cannot be compiled, crashes the compiler or disagrees is not tried
again: eager torch stays. What the machine had no time or memory for is, later.
"""

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Literal, Self

import torch

from lossserver.compiler import BusyError, Compiler
from lossserver.config import Fusing
from lossserver.faults import is_full
from lossserver.kernel import Kernel, Recipe, load
from lossserver.make_kernel import DisagreesError, compare
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

#: Of these, whoever orders them. A stranger with ever new configs must not keep others waiting.
WAITING_PER_TENANT = 4

#: Kernels made in one server's life. One that was evicted leaves its code mapped, 3 MB of the disk,
#: for torch's C++ in it has destructors that wait for threads to end.
MADE = 1024

#: Batches of a key after which a kernel is ordered again that the machine was too busy for.
AGAIN = 64 * OFTEN


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
        self._turn = threading.Lock()  # one is made at a time, whoever asks for it
        self._ready: OrderedDict[Hashable, Kernel] = OrderedDict()
        self._asked: OrderedDict[Hashable, int] = OrderedDict()
        self._making: dict[Hashable, str] = {}
        self._orders: queue.Queue[tuple[Hashable, Recipe]] = queue.Queue()
        self._made = 0
        self._compiler = Compiler()
        self._closed = False
        threading.Thread(target=self._work, name="compile", daemon=True).start()

    def find(self, key: Hashable, recipe: Callable[[], Recipe], tenant: str = "") -> Kernel | None:
        """The kernel of that key; None while there is none, and eager torch must do.

        Parameters:
            key: equal keys have one kernel.
            recipe: what to make it of; asked for once, if it comes to that.
            tenant: who asks, and may have WAITING_PER_TENANT kernels ordered.
        """
        with self._lock:
            if (kernel := self._ready.get(key)) is not None:
                self._ready.move_to_end(key)
                return kernel
            if key in self._making or self._full():
                return None
            asked = self._asked.get(key, 0) + 1
            ordered = asked == OFTEN
            if ordered and sum(map(tenant.__eq__, self._making.values())) >= WAITING_PER_TENANT:
                asked, ordered = 0, False
            self._count(key, asked)
            if not ordered:
                return None
            self._making[key] = tenant
        self._order(key, recipe)
        return None

    def _full(self) -> bool:
        return len(self._making) >= WAITING or self._made >= MADE or self._closed

    def _order(self, key: Hashable, recipe: Callable[[], Recipe]) -> None:
        self._metrics.kernel("wanted")
        try:
            self._orders.put((key, recipe()))
        except Exception as error:  # noqa: BLE001  (a loss may raise anything; eager torch stays)
            self._refuse(key, "unknown", error)

    def prepare(self, key: Hashable, recipe: Recipe) -> bool:
        """Make the kernel of that key now; whether there is one. Any thread may wait for it."""
        with self._lock:
            if self._closed:
                return False
            self._making[key] = ""
        self._metrics.kernel("wanted")
        self._make(key, recipe)
        with self._lock:
            return key in self._ready

    def drop(self, key: Hashable, error: Exception) -> None:
        """Use the kernel of that key no more, since it raised; eager torch does, for good."""
        with self._lock:
            self._ready.pop(key, None)
            self._count(key, OFTEN)
        self._metrics.kernel("failed")
        log.warning("a kernel raised and is dropped: %s", error)

    def _count(self, key: Hashable, asked: int) -> None:
        """Note the batches of a key; of an order that was refused OFTEN, or fewer to allow another."""
        self._asked[key] = asked
        self._asked.move_to_end(key)
        if len(self._asked) > KEYS:
            self._asked.popitem(last=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Make no more kernels, and give up the one being made."""
        with self._lock:
            self._closed = True
        self._compiler.close()
        self._shelf.close()

    def _work(self) -> None:
        while not self._closed:
            self._make(*self._orders.get())

    def _make(self, key: Hashable, recipe: Recipe) -> None:
        started = time.perf_counter()
        name = type(recipe.fused.formula).__name__
        try:
            with self._turn:
                kernel, event = self._found_or_made(recipe)
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
                return _checked(where, recipe), "loaded"
            except (OSError, LookupError, ValueError, RuntimeError, DisagreesError) as error:
                if is_full(error):
                    raise
                log.warning("a kernel on disk is of no use and is made anew: %s", error)
                shutil.rmtree(where, ignore_errors=True)
        self._compile(recipe, where)
        return _checked(where, recipe), "compiled"

    def _keep(self, key: Hashable, kernel: Kernel) -> None:
        with self._lock:
            self._making.pop(key, None)
            self._ready[key] = kernel
            evicted = len(self._ready) > self._most
            if evicted:
                old, _ = self._ready.popitem(last=False)
                self._asked.pop(old, None)  # it may come back: from disk it costs little
        if evicted:
            self._metrics.kernel("evicted")

    def _refuse(self, key: Hashable, name: str, error: Exception) -> None:
        later = isinstance(error, BusyError | OSError) or is_full(error)
        with self._lock:
            self._making.pop(key, None)
            self._count(key, OFTEN - AGAIN if later else OFTEN)
        if not self._closed:
            disagreed = "DisagreesError" in repr(error)
            self._metrics.kernel("disagreed" if disagreed else "failed")
            log.warning("kernel loss=%s not used, eager torch stays: %s", name, error)

    def _compile(self, recipe: Recipe, where: Path) -> None:
        started = time.perf_counter()
        with self._shelf.adding(where) as made:
            self._made += 1
            self._compiler.make(recipe, made)
        self._metrics.compiled(time.perf_counter() - started)


def _checked(where: Path, recipe: Recipe) -> Kernel:
    """The kernel that lies there, once it has agreed with eager torch."""
    kernel = load(where, torch.device(recipe.device))
    compare(kernel, recipe.fused, [one.to(recipe.device) for one in recipe.example])
    return kernel


@contextlib.contextmanager
def opened(options: Fusing, metrics: Metrics) -> Iterator[Kernels | None]:
    """Kernels for as long as a server runs; None if there are to be none, or nowhere to keep them."""
    if options.compile == "off":
        yield None
        return
    try:
        kernels = Kernels(options, metrics)
    except OSError as error:
        log.warning("no fused kernels, eager torch computes: %s", error)
        yield None
        return
    with kernels:
        yield kernels
