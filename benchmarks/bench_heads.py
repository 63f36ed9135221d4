"""What a whole head costs: loss and gradient of two images of 800 x 1333, beside MMDetection's own code.

    python -m benchmarks.bench_heads [--upstream PYTHON] [--rounds 9]

In process: not measured are decode, queueing and the network. PYTHON is an interpreter that has
MMDetection 3.3.0 (benchmarks/upstream.py says how to make one); its steps and ours take turns.
Also printed: the bytes of the call, and of `assign`, which sends boxes and no maps.
"""

import argparse
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import lossserver.detection  # noqa: F401  (registers the heads)
from benchmarks import heads
from benchmarks.harness import report
from lossclient.call import encode_call
from lossclient.torch_bytes import to_bytes
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES
from lossserver.tree import map_tensors


def target(name: str) -> dict[str, Any]:
    """The ground truth of a call."""
    found, labels = heads.boxes(name)
    return {"gt_bboxes": found, "gt_labels": labels, "img_metas": heads.METAS}


def step(name: str, head: Any, maps: dict[str, list[torch.Tensor]]) -> tuple[float, float]:
    """Seconds of one loss and gradient, and the loss."""
    leaves = {k: [one.clone().requires_grad_() for one in v] for k, v in maps.items()}
    call = Call(inputs={"pred": leaves, "target": target(name)})
    start = time.perf_counter()
    head.check(call)
    loss = heads.total(head.outputs(call))
    loss.backward()
    return time.perf_counter() - start, float(loss.detach())


@contextmanager
def upstream(python: str, name: str) -> Iterator[Any]:
    """One step of upstream's head at each call: its seconds and loss."""
    script = str(Path(__file__).parent / "upstream.py")
    command = [python, "-W", "ignore", script, name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        assert process.stdin is not None  # noqa: S101  (pipes were asked for)
        assert process.stdout is not None  # noqa: S101
        while process.stdout.readline().strip() != "ready":
            if process.poll() is not None:
                raise SystemExit(f"{python} cannot build {name}")

        def ask() -> tuple[float, float]:
            print(file=process.stdin, flush=True)
            seconds, loss = process.stdout.readline().split()
            return float(seconds), float(loss)

        yield ask
        process.stdin.close()


def sent(name: str, maps: dict[str, list[torch.Tensor]]) -> tuple[int, int]:
    """Bytes of the whole call, and of asking for the assignment alone."""
    config, truth = heads.CONFIGS[name], map_tensors(to_bytes, target(name))
    whole = encode_call(config, {"pred": map_tensors(to_bytes, maps), "target": truth})
    sizes = [list(one.shape[2:]) for one in next(iter(maps.values()))]
    asked = {"target": truth, "featmap_sizes": sizes}
    return whole.size, encode_call({"type": "Assign", "of": config}, asked, wrt=()).size


def main() -> None:
    """Measure each head, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    for name, config in heads.CONFIGS.items():
        maps, head = heads.predictions(name), LOSSES.build(config)
        step(name, head, maps)
        if arguments.upstream is None:
            samples = {"lossserver": [step(name, head, maps)[0] for _ in range(arguments.rounds)]}
            report(f"{name}: loss and gradient", "lossserver", **samples)
        else:
            with upstream(arguments.upstream, name) as theirs:
                theirs()
                pairs = [(theirs(), step(name, head, maps)) for _ in range(arguments.rounds)]
            samples = {
                "mmdet": [one[0] for one, _ in pairs],
                "lossserver": [two[0] for _, two in pairs],
            }
            report(f"{name}: loss and gradient", "mmdet", **samples)
            print(f"loss of mmdet {pairs[0][0][1]:.6f}, of lossserver {pairs[0][1][1]:.6f}")
        whole, assigned = sent(name, maps)
        if name != "CornerHead":
            print(
                f"bytes of the call {whole:,}, of assign {assigned:,}: {whole / assigned:,.0f} x\n"
            )


if __name__ == "__main__":
    main()
