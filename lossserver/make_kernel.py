"""A fused function made into machine code by Inductor, in a process of its own.

Making a kernel takes seconds of a core and the interpreter's lock of whoever does
it: `python -m lossserver.make_kernel DIRECTORY` reads a Recipe, makes the kernel,
compares it with eager torch, and only then leaves it in the directory. A kernel
that fails, crashes or disagrees there has hurt nobody.
"""

import json
import os
import pickle
import sys
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossserver.cheaper import CHEAPER, without_signs
from lossserver.fuse import Fused
from lossserver.kernel import Kernel, Recipe, load

#: Relative to the largest value of a tensor. Kernels round otherwise than eager torch, by a few ulp.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

#: Rows of the examples that a kernel is compared on: one vector and less, several, several threads.
SIZES = (2, 3, 67, 2051)

#: Elements of such an example's largest tensor, unless two rows have more: a row may be a whole image.
LARGEST = 1 << 20

#: What a caller sent is compared within ±this. What lies beyond may overflow in one order of
#: operations and not in another, and says nothing of the kernel.
FAR = 1e4

#: Numbers of a box's corners: they are made up in order, or the box has no area.
_CORNERS = 4


class DisagreesError(Exception):
    """A kernel gives other values than eager torch."""


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
    program = _exported(recipe.fused, arguments, cheaper=recipe.device == "cpu")
    # No two of one name: what is loaded already is not loaded again from the same path.
    file = directory / f"{uuid.uuid4().hex}.pt2"
    aoti_compile_and_package(program, package_path=str(file), inductor_configs=_options())
    device = torch.device(recipe.device)
    if device.type == "cpu":
        file = _extract(file)
    (directory / "kernel.json").write_text(json.dumps({"file": file.name, "reached": reached}))
    compare(load(directory, device), recipe.fused, example)


def _exported(fused: Fused, arguments: list[Tensor], *, cheaper: bool) -> Any:
    """The function as a graph of torch's operations, or cheaper ones, for any number of rows."""
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

    def reaching(*given: Tensor) -> list[Tensor]:
        return [one for one in fused(*given) if one is not None]

    instead = dict(CHEAPER) if cheaper else {}
    graph = without_signs(make_fx(reaching, instead, "symbolic")(*arguments))
    rows = torch.export.Dim("rows", min=2)
    return torch.export.export(
        graph, tuple(arguments), dynamic_shapes=tuple({0: rows} for _ in arguments)
    )


def _options() -> dict[str, Any]:
    import torch._inductor.config as known  # noqa: PLC0415

    # What calls the kernels gains nothing by optimisation, which took longer than the kernels.
    wanted = {
        "cpp.dynamic_threads": True,
        # They leave what reads four numbers a row, as boxes are, to scalar loops: seven times as slow.
        "cpp.enable_tiling_heuristics": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        # They would lie where other users may write: 290 MB, to make a kernel 1.4 of 15 s sooner.
        "aot_inductor.precompile_headers": False,
    }
    return {name: value for name, value in wanted.items() if name in known.get_config_copy()}


def _extract(package: Path) -> Path:
    """Leave the library of a package in its place, and say where.

    Raises:
        ValueError: it calls operations that only torch's own loader could provide.
    """
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
        source = next(name for name in names if name.endswith("wrapper.cpp"))
        if b"proxy_executor_call" in archive.read(source):
            raise ValueError("a part of the formula has no C interface")
        library = next(name for name in names if name.endswith("wrapper.so"))
        found = package.with_suffix(".so")
        found.write_bytes(archive.read(library))
    package.unlink()
    return found


def compare(kernel: Kernel, fused: Fused, example: Sequence[Tensor]) -> None:
    """Refuse a kernel that differs from eager torch, on examples of several sizes.

    They have the integers that were sent. Their floats are those that were sent, within ±FAR, and
    made up, in [0, 1). Where eager torch gives no finite number on what was sent, any answer is right.

    Raises:
        DisagreesError: it does.
    """
    most = max(2, LARGEST // max(1, *(one[0].numel() for one in example)))
    for rows in sorted({min(rows, most) for rows in SIZES}):
        for kind, arguments in _examples(tiled(example, rows)):
            expected = fused(*arguments)
            for index, (own, other) in enumerate(zip(kernel(arguments), expected, strict=True)):
                if not _agree(own, other, strictly=kind != "as sent"):
                    raise DisagreesError(f"answer {index} of {rows} rows, {kind}")


def _examples(sent: list[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    near = [one.nan_to_num().clamp(-FAR, FAR) if one.is_floating_point() else one for one in sent]
    yield "as sent", near
    made_up = [_made_up(one, seed) for seed, one in enumerate(sent)]
    yield "made up", made_up
    yield "with a NaN", [_spoilt(made_up[0]), *made_up[1:]]


def _made_up(tensor: Tensor, seed: int) -> Tensor:
    """Numbers in [0, 1) of that shape, the same each time; integers are labels, and stay."""
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(seed)
    made = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
    if tensor.shape[-1] == _CORNERS:
        made = made.sort(-1).values
    return made.to(tensor.device)


def _agree(own: Tensor | None, other: Tensor | None, *, strictly: bool) -> bool:
    """Whether they are close where `other` is finite; strictly: and not finite where it is not."""
    if own is None or other is None:
        return own is other
    if own.shape != other.shape or own.dtype != other.dtype:
        return False
    finite = other.isfinite()
    if strictly and bool(own[~finite].isfinite().any()):
        return False
    scale = float(other[finite].abs().max()) if bool(finite.any()) else 0.0
    tolerance = TOLERANCE[other.dtype]
    return torch.allclose(own[finite], other[finite], rtol=tolerance, atol=tolerance * scale)


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
