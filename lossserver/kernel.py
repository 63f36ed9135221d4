"""A fused function as machine code, loaded into this process: make_kernel.py left it in a directory.

On the CPU a large kernel is called through its C interface, not through torch's
binding of it: that binding holds the interpreter's lock while the kernel runs, and
the event loop would answer nobody meanwhile.
"""

import contextlib
import ctypes
import inspect
import json
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossserver.fuse import Fused

#: Makes a kernel of the tensors it is given: values, then gradients, None where none reaches.
Kernel = Callable[[Sequence[Tensor]], list[Tensor | None]]

#: Elements of a kernel's first input up to which torch's own binding calls it, which takes 10 µs less:
#: some 0.4 ms in which no other thread gets a word in.
BRIEF = 1 << 17

#: Runs of one kernel at a time: the event loop's and the worker's.
RUNNERS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What a kernel is made of.

    Attributes:
        fused: the function.
        example: its arguments, of two rows at least: the leaves as callers sent them; on the CPU.
        device: where the kernel is to run.
    """

    fused: Fused
    example: Sequence[Tensor]
    device: str


def load(directory: Path, device: torch.device) -> Kernel:
    """The kernel that was left in a directory, to run on that device.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be loaded.
    """
    told = json.loads((directory / "kernel.json").read_text())
    file = directory / told["file"]
    run = _Library(file) if device.type == "cpu" else _loaded(file, device)
    reached: list[bool] = told["reached"]

    def kernel(arguments: Sequence[Tensor]) -> list[Tensor | None]:
        values, *grads = run([one.contiguous() for one in arguments])
        found = iter(grads)
        return [values, *(next(found) if there else None for there in reached)]

    return kernel


def _loaded(package: Path, device: torch.device) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    from torch._inductor.package.package import load_package  # noqa: PLC0415  (a second to import)

    index = -1 if device.index is None else device.index
    known = inspect.signature(load_package).parameters
    wanted: dict[str, Any] = {"num_runners": RUNNERS, "device_index": index}
    # A torch that cannot be told the index loads it on the current device.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        run: Callable[..., Sequence[Tensor]] = load_package(
            str(package), **{name: value for name, value in wanted.items() if name in known}
        )
    return lambda arguments: run(*arguments)


class _Library:
    """A compiled kernel of the CPU; a large one is called without the interpreter's lock."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._counted = threading.local()
        self._brief = _aoti.AOTIModelContainerRunnerCpu(str(path), 1)
        self._handle = ctypes.c_void_p()
        runners = ctypes.c_size_t(RUNNERS)
        self._call("CreateWithDevice", ctypes.byref(self._handle), runners, b"cpu", None)
        count = ctypes.c_size_t()
        self._call("GetNumOutputs", self._handle, ctypes.byref(count))
        self._outputs = count.value
        weakref.finalize(self, _close, self._library, self._handle)

    def __call__(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        # A kernel may be linked with another OpenMP than torch's, which counts threads for itself.
        threads = torch.get_num_threads()
        if getattr(self._counted, "threads", 0) != threads:
            self._library.omp_set_num_threads(threads)
            self._counted.threads = threads
        if arguments[0].numel() <= BRIEF:
            brief: list[Tensor] = self._brief.run(arguments)
            return brief
        # The kernel takes over what these point to, which are references, not the tensors.
        given = [_pointer(one) for one in _aoti.unsafe_alloc_void_ptrs_from_tensors([*arguments])]
        inputs = (ctypes.c_void_p * len(given))(*given)
        outputs = (ctypes.c_void_p * self._outputs)()
        counts = ctypes.c_size_t(len(given)), ctypes.c_size_t(self._outputs)
        self._call("Run", self._handle, inputs, counts[0], outputs, counts[1], None, None)
        taken: list[Tensor] = _aoti.alloc_tensors_by_stealing_from_void_ptrs(
            [_capsule(one, None, None) for one in outputs]
        )
        return taken

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._library, f"AOTInductorModelContainer{name}")(*arguments):
            raise RuntimeError(f"{name} of a kernel gave {code}")


def _close(library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
    library.AOTInductorModelContainerDelete(handle)


_aoti: Any = torch._C._aoti  # noqa: SLF001  (the only way from a tensor to its handle and back)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype = ctypes.py_object
_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_content = ctypes.pythonapi.PyCapsule_GetPointer
_content.restype = ctypes.c_void_p
_content.argtypes = [ctypes.py_object, ctypes.c_char_p]


def _pointer(capsule: Any) -> int | None:
    pointer: int | None = _content(capsule, None)
    return pointer
