"""What one kernel saves: each rowwise loss with its gradient, in eager torch and fused.

    python -m benchmarks.bench_kernels                  the losses below, at sizes they are used at
    python -m benchmarks.bench_kernels --all            and every other, its test case's rows repeated
    python -m benchmarks.bench_kernels --only GIoU      those whose name has it

Eager is what the server does without a kernel; rounds alternate, medians. A
kernel is made once a loss and shape, for all numbers of rows, by a process in
the background; here in this one. Not measured: batching (bench_compute), the
wire (bench_e2e).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lossserver.losses  # noqa: F401  (registers them)
from benchmarks.harness import machine
from lossserver.fuse import Fused
from lossserver.kernel import Recipe, load
from lossserver.losses.loss import Call
from lossserver.losses.rows import RowwiseLoss
from lossserver.make_kernel import make, tiled
from lossserver.registry import LOSSES
from lossserver.tree import map_tensors
from tests.losses.cases import CASES

Inputs = dict[str, Any]
Maker = Callable[[int], Inputs]

#: Elements that an input of a loss without a size of its own is repeated to.
ELEMENTS = 1 << 20


def labels(classes: int, background: int = 0) -> Maker:
    """Scores of so many classes, and class indices, with background if there is one."""
    return lambda rows: {
        "pred": torch.randn(rows, classes),
        "target": torch.randint(0, classes + background, (rows,)),
    }


def soft(*shape: int) -> Maker:
    """Scores, and targets in [0, 1) of the same shape."""
    return lambda rows: {"pred": torch.randn(rows, *shape), "target": torch.rand(rows, *shape)}


def boxes(rows: int) -> Inputs:
    """Boxes that lie about each other."""

    def some() -> Tensor:
        return torch.cat([torch.rand(rows, 2), 1 + torch.rand(rows, 2)], 1)

    return {"pred": some(), "target": some()}


def distances(rows: int) -> Inputs:
    """Sides of boxes in 16 bins."""
    return {"pred": torch.randn(rows, 17), "target": 15 * torch.rand(rows)}


def quality(rows: int) -> Inputs:
    """Class indices with background, and how good each box is."""
    plain = labels(80, 1)(rows)
    return plain | {"target": [plain["target"], torch.rand(rows)]}


#: Config, rows, and what makes inputs of so many.
USUAL: list[tuple[dict[str, Any], int, Maker]] = [
    ({"type": "FocalLoss"}, 64, labels(80, 1)),
    ({"type": "FocalLoss"}, 8192, labels(80, 1)),
    ({"type": "FocalLoss"}, 200_000, labels(80, 1)),
    ({"type": "CrossEntropyLoss"}, 4096, labels(8192)),
    ({"type": "CrossEntropyLoss", "use_sigmoid": True}, 8192, labels(80, 1)),
    ({"type": "torch.CrossEntropyLoss", "label_smoothing": 0.1}, 8192, labels(80)),
    ({"type": "QualityFocalLoss"}, 8192, quality),
    ({"type": "VarifocalLoss"}, 8192, soft(80)),
    ({"type": "DistributionFocalLoss"}, 40_000, distances),
    ({"type": "GaussianFocalLoss"}, 8, soft(80, 128, 128)),
    *(
        ({"type": f"{name}Loss"}, 100_000, boxes)
        for name in ("IoU", "GIoU", "DIoU", "CIoU", "EIoU", "SIoU", "BoundedIoU")
    ),
    *(
        ({"type": f"{name}Loss"}, 100_000, soft(4))
        for name in ("L1", "SmoothL1", "BalancedL1", "MSE")
    ),
    ({"type": "KnowledgeDistillationKLDivLoss", "T": 2}, 8192, soft(81)),
]


def others() -> Iterator[tuple[dict[str, Any], int, Maker]]:
    """The first test case of every other rowwise loss."""
    seen = {config["type"] for config, _, _ in USUAL}
    for case in CASES:
        name = case.config["type"]
        if name not in seen and issubclass(LOSSES[name], RowwiseLoss):
            seen.add(name)
            yield case.config, 0, case.inputs


def functions(config: dict[str, Any], inputs: Mapping[str, Any], rows: int) -> tuple[Fused, Any]:
    """Values and gradient of a call as one function, and its arguments, of so many rows if not 0."""
    narrow = map_tensors(lambda x: x.float() if x.is_floating_point() else x, inputs)
    own = LOSSES.build(config).rows(Call(inputs=narrow, wrt=frozenset({"pred"})))
    if own is None:
        raise SystemExit(f"{config} is not computed by rows")
    fused = Fused(formula=own.formula, inputs=own.inputs, names=["pred"], form="sums")
    given = own.leaves
    values = own.formula.formula(**own.inputs)
    ones = [len(values), *[1] * (values.dim() - 1)]
    arguments = [*given, torch.full(ones, 0.01)]
    if not rows:
        rows = ELEMENTS * len(values) // max(one.numel() for one in given)
        arguments = tiled(arguments, rows)
    return fused, arguments


def alternating(*runs: Callable[[], object], seconds: float) -> list[float]:
    """Median seconds of each, run in turns for about so long."""
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    end = time.perf_counter() + seconds
    while len(taken[0]) < 5 or time.perf_counter() < end:
        for run, own in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in taken]


def line(config: dict[str, Any], rows: int, maker: Maker, seconds: float, threads: int) -> str:
    """A row of the table; why there is none, where no kernel can be made."""
    few, example = functions(config, maker(6), 6)
    name = ", ".join([config["type"], *(f"{k}={v}" for k, v in config.items() if k != "type")])
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        try:
            make(Recipe(fused=few, example=example, device="cpu"), Path(directory))
        except Exception as error:  # noqa: BLE001  (Inductor raises anything)
            return f"| {name} | | | | | {type(error).__name__}: {str(error).splitlines()[0]} |"
        kernel, made = load(Path(directory), torch.device("cpu")), time.perf_counter() - start
    fused, arguments = functions(config, maker(rows or 6), rows)
    torch.set_num_threads(threads if arguments[0].numel() > 1 << 16 else 1)
    eager, own = alternating(lambda: fused(*arguments), lambda: kernel(arguments), seconds=seconds)
    return (
        f"| {name} | {list(arguments[0].shape)} | {eager * 1e3:.2f} | {own * 1e3:.2f} "
        f"| {eager / own:.1f} | {made:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every rowwise loss")
    parser.add_argument("--only", default="", help="a part of the names wanted")
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, a loss")
    parser.add_argument("--threads", type=int, default=2, help="for over 65,536 elements")
    args = parser.parse_args()
    print(f"# {machine()}\n")
    print("| loss | pred | eager, ms | fused, ms | ratio | made in, s |\n|---|---|---|---|---|---|")
    for config, rows, maker in [*USUAL, *(others() if args.all else [])]:
        if args.only in config["type"]:
            print(line(config, rows, maker, args.seconds, args.threads), flush=True)


if __name__ == "__main__":
    main()
