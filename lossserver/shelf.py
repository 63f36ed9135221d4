"""Where kernels are kept on disk, so that a restart finds them.

A kernel is machine code that this process runs. So the directory must be ours
alone: one that others may write to is refused. Each kernel has a directory named
by a digest of all that it depends on: formula, layout, machine and versions.
"""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

import lossserver
from lossserver.kernel import Recipe
from lossserver.tree import map_tensors

log = logging.getLogger("lossserver")

#: Seconds after which nobody makes a kernel any more; longer than it may take.
STALE = 3600.0

#: Kernels kept, of some 0.1 to 3 MB each.
ON_DISK = 1024


class Shelf:
    """A directory of kernels.

    Parameters:
        given: its path; if empty, ~/.cache/lossserver/kernels. If it cannot be written, there is
            one for this run alone.

    Raises:
        ValueError: others may write to it, or it is another user's.
        OSError: nothing at all can be written here.
    """

    def __init__(self, given: str) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self._path = Path(given) if given else home / "lossserver" / "kernels"
        self._passing = False
        try:
            for one in (*reversed(self._path.parents), self._path):
                one.mkdir(mode=0o700, exist_ok=True)
            if not os.access(self._path, os.W_OK):
                raise PermissionError(f"{self._path} cannot be written")
        except OSError as error:
            log.warning("kernels are kept for this run only: %s", error)
            self._passing = True
            self._path = Path(tempfile.mkdtemp(prefix="lossserver-"))
        found = self._path.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise ValueError(
                "kernel_cache must be a directory of ours that nobody else may write to; "
                f"given {self._path}"
            )
        # What a server that was killed had been making.
        for left in self._path.glob("making-*"):
            if 0 < _changed(left) < time.time() - STALE:
                shutil.rmtree(left, ignore_errors=True)

    def place_of(self, recipe: Recipe) -> Path:
        """Where the kernel of a recipe is, or is to be."""
        return self._path / digest(recipe)

    @contextlib.contextmanager
    def adding(self, place: Path) -> Iterator[Path]:
        """A directory to make a kernel in; if the block ends well, it becomes the kernel's place.

        What its parent holds besides is removed in the end, however that comes.
        """
        try:
            with tempfile.TemporaryDirectory(
                dir=self._path, prefix="making-", ignore_cleanup_errors=True
            ) as made:
                inner = Path(made) / "kernel"
                inner.mkdir(mode=0o700)
                yield inner
                with contextlib.suppress(OSError):
                    inner.rename(place)  # unless another server was faster; its kernel is as good
        finally:
            self._prune()

    def close(self) -> None:
        """Remove it, if it was for this run alone."""
        if self._passing:
            shutil.rmtree(self._path, ignore_errors=True)

    def _prune(self) -> None:
        """Remove the oldest kernels above ON_DISK. Other servers may do the same."""
        kernels = sorted(self._path.glob("*/kernel.json"), key=_changed)
        for old in kernels[: max(0, len(kernels) - ON_DISK)]:
            shutil.rmtree(old.parent, ignore_errors=True)


def _changed(path: Path) -> float:
    """Seconds since the epoch at which it was last changed; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def digest(recipe: Recipe) -> str:
    """A name for all that a kernel depends on: equal recipes on equal machines have one."""
    fused = recipe.fused
    formula = type(fused.formula)
    parts: list[Any] = [
        (lossserver.__version__, _sources(), torch.__version__, recipe.device.split(":")[0]),
        _machine(recipe.device),
        (
            _source(formula.__module__),
            formula.__module__,
            formula.__qualname__,
            fused.formula,
            fused.names,
            fused.form,
        ),
        {name: map_tensors(lambda _: "tensor", tree) for name, tree in fused.inputs.items()},
        [(str(one.dtype), tuple(one.shape[1:])) for one in recipe.example],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@cache
def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    # Kernels use every instruction that there is.
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = platform.processor()
    flags = next((line for line in told.splitlines() if line.startswith("flags")), told)
    return f"{torch.backends.cpu.get_cpu_capability()} {flags}"


@cache
def _sources() -> str:
    """A digest of the code that formulas are made of: who changes it must not get old kernels."""
    here = Path(__file__).parent
    beside = [here / name for name in ("cheaper.py", "fuse.py", "make_kernel.py")]
    files = sorted([*here.glob("losses/*.py"), *beside])
    return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()


@cache
def _source(module: str) -> str:
    """A digest of the file of a formula's own module, which may be a plugin's; empty if it has none."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
