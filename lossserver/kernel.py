"""A fused function as machine code: made by Inductor in a process of its own, loaded into this one.

Making one takes seconds of a core and the interpreter's lock of whoever does it, so
it is done elsewhere: `python -m lossserver.kernel DIRECTORY` reads a Recipe, makes
the kernel, compares it with eager torch on the recipe's example, and only then
leaves it in the directory. A kernel that fails, crashes or disagrees there has
hurt nobody.

On the CPU a large kernel is called through its C interface, not through torch's
binding of it: that binding holds the interpreter's lock while the kernel runs, and
the event loop would answer nobody meanwhile.
"""

import ctypes
import json
import os
import pickle
import sys
import threading
import weakref
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossserver.fuse import Fused

#: Relative to the largest value of a tensor. Kernels round otherwise than eager torch, by a few ulp.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

#: Rows of the examples that a kernel is compared on: one vector and less, several, several threads.
SIZES = (2, 3, 67, 2051)

#: Elements of such an example's largest tensor, unless two rows have more: a row may be a whole image.
LARGEST = 1 << 20

#: Makes a kernel of the tensors it is given: values, then gradients, None where none reaches.
Kernel = Callable[[Sequence[Tensor]], list[Tensor | None]]

#: Elements of a kernel's first input up to which torch's own binding calls it, which takes 10 µs less:
#: some 0.4 ms in which no other thread gets a word in.
BRIEF = 1 << 17

_NAME = "kernel"


class DisagreesError(Exception):
    """A kernel gives other values than eager torch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """What a kernel is made of.

    Attributes:
        fused: the function.
        example: its arguments, of two rows at least, as a caller sent them; on the CPU.
        device: where the kernel is to run.
    """

    fused: Fused
    example: Sequence[Tensor]
    device: str


def load(directory: Path) -> Kernel:
    """The kernel that was left in a directory.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be loaded.
    """
    told = json.loads((directory / "kernel.json").read_text())
    package = directory / f"{_NAME}.pt2"
    run = _Library(directory / f"{_NAME}.so") if told["device"] == "cpu" else _loaded(package)
    reached: list[bool] = told["reached"]

    def kernel(arguments: Sequence[Tensor]) -> list[Tensor | None]:
        values, *grads = run([one.contiguous() for one in arguments])
        found = iter(grads)
        return [values, *(next(found) if there else None for there in reached)]

    return kernel


def _loaded(package: Path) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    run: Callable[..., Sequence[Tensor]] = torch._inductor.aoti_load_package(str(package))  # noqa: SLF001  (its public name)
    return lambda arguments: run(*arguments)


class _Library:
    """A compiled kernel of the CPU, called without the interpreter's lock."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._counted = threading.local()
        self._brief = _aoti.AOTIModelContainerRunnerCpu(str(path), 1)
        self._handle = ctypes.c_void_p()
        # As many at once as may compute: the event loop and the worker's thread.
        self._call("CreateWithDevice", ctypes.byref(self._handle), ctypes.c_size_t(2), b"cpu", None)
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


def make(recipe: Recipe, directory: Path) -> None:
    """Make the kernel, compare it with eager torch, and leave it in the directory.

    Raises:
        DisagreesError: it gives other values.
        Exception: whatever Inductor raises of a formula it cannot compile.
    """
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415  (a second of importing)

    example = [one.to(recipe.device) for one in recipe.example]
    arguments = tiled(example, _odd(example))
    reached = [one is not None for one in recipe.fused(*tiled(example, 2))[1:]]
    program = _exported(recipe.fused, arguments)
    package = directory / f"{_NAME}.pt2"
    aoti_compile_and_package(program, package_path=str(package), inductor_configs=_options())
    if recipe.device == "cpu":
        _extract(package)
    told = {"device": recipe.device, "reached": reached}
    (directory / "kernel.json").write_text(json.dumps(told))
    compare(load(directory), recipe.fused, example)


def _exported(fused: Fused, arguments: list[Tensor]) -> Any:
    """The function as a graph of torch's operations, for any number of rows."""
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

    def reaching(*given: Tensor) -> list[Tensor]:
        return [one for one in fused(*given) if one is not None]

    graph = make_fx(reaching, tracing_mode="symbolic")(*arguments)
    rows = torch.export.Dim("rows", min=2)
    return torch.export.export(
        graph, tuple(arguments), dynamic_shapes=tuple({0: rows} for _ in arguments)
    )


def _options() -> dict[str, Any]:
    import torch._inductor.config as known  # noqa: PLC0415

    # What calls the kernels gains nothing by optimisation, which took longer than the kernels.
    wanted = {"cpp.dynamic_threads": True, "aot_inductor.compile_wrapper_opt_level": "O0"}
    return {name: value for name, value in wanted.items() if name in known.get_config_copy()}


def _extract(package: Path) -> None:
    """Leave the library of a package in its place.

    Raises:
        ValueError: it calls operations that only torch's own loader could provide.
    """
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        source = next(name for name in names if name.endswith("wrapper.cpp"))
        if b"proxy_executor_call" in archive.read(source):
            raise ValueError("a part of the formula has no C interface")
        library = next(name for name in names if name.endswith("wrapper.so"))
        package.with_suffix(".so").write_bytes(archive.read(library))
    package.unlink()


def compare(kernel: Kernel, fused: Fused, example: Sequence[Tensor]) -> None:
    """Refuse a kernel that differs from eager torch on the example, made of several sizes.

    Raises:
        DisagreesError: it does.
    """
    most = max(2, LARGEST // max(1, *(one[0].numel() for one in example)))
    for rows in sorted({min(rows, most) for rows in SIZES}):
        arguments = tiled(example, rows)
        for kind in ("as sent", "with a NaN"):
            if kind == "with a NaN":
                arguments[0] = _spoilt(arguments[0])
            expected = fused(*arguments)
            for index, (own, other) in enumerate(zip(kernel(arguments), expected, strict=True)):
                if not _agree(own, other):
                    raise DisagreesError(f"answer {index} of {rows} rows, {kind}")


def _agree(own: Tensor | None, other: Tensor | None) -> bool:
    if own is None or other is None:
        return own is other
    if own.shape != other.shape or own.dtype != other.dtype:
        return False
    finite = other.isfinite()
    scale = float(other[finite].abs().max()) if bool(finite.any()) else 0.0
    tolerance = TOLERANCE[other.dtype]
    return torch.allclose(own, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _spoilt(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    spoilt = tensor.clone()
    spoilt[1] = torch.nan
    return spoilt


def tiled(example: Sequence[Tensor], rows: int) -> list[Tensor]:
    """The example's rows again and again, until there are so many."""
    places = torch.arange(rows, device=example[0].device) % len(example[0])
    return [one[places] for one in example]


def _odd(example: Sequence[Tensor]) -> int:
    """A number of rows that is no other extent: tracing takes equal extents for one."""
    taken = {extent for one in example for extent in one.shape[1:]}
    return next(rows for rows in range(37, 37 + len(taken) + 1) if rows not in taken)


def main() -> None:
    """Make the kernel of the Recipe on standard input; say on the last line of stderr why not."""
    os.nice(10)
    torch.set_num_threads(1)
    # From this project's own server, which started this process with a pipe of its own.
    recipe: Recipe = pickle.load(sys.stdin.buffer)  # noqa: S301
    try:
        make(recipe, Path(sys.argv[1]))
    except Exception as error:  # noqa: BLE001  (Inductor raises anything)
        first = (str(error).strip() or "no text").splitlines()[0]
        sys.exit(f"{type(error).__name__}: {first[:300]}")


if __name__ == "__main__":
    main()
