"""What a server's memory reaches while it answers a call larger than all it may hold.

No process keeps its memory here but the server, and nothing is timed.
"""

from pathlib import Path

import numpy as np
import torch

import lossclient
from benchmarks import local
from benchmarks.planes.case import Array, WrongError
from lossserver.bench.child import child

#: Rows that are repeated, columns, and repetitions of the full call: 2 GiB of float32.
ROWS, COLUMNS, REPEATS = 64, 8192, 1024


def memory_of(pid: int, name: str) -> int:
    """VmRSS or VmHWM of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def peak(serve: tuple[str, ...], repeats: int = REPEATS) -> int:
    """Bytes above idle that a server reaches in one call in pieces."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, COLUMNS), np.float32)
    classes = rng.integers(COLUMNS, size=ROWS)
    loss, grad = local.step(local.cross_entropy, torch.from_numpy(rows), torch.from_numpy(classes))
    with child(*serve) as server, lossclient.connect(server.target, plane="pieces") as client:
        # What a first call allocates for ever is not this call's.
        client.compute({"type": "CrossEntropyLoss"}, rows, classes)
        pred, target = np.tile(rows, (repeats, 1)), np.tile(classes, repeats)
        idle = memory_of(server.pid, "VmRSS")
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # begins VmHWM anew
        result = client.compute({"type": "CrossEntropyLoss"}, pred, target, timeout=600)
        reached = memory_of(server.pid, "VmHWM") - idle
    check(result, loss, grad.numpy() / repeats)
    return reached


def check(result: lossclient.Result, loss: float, grad: Array) -> None:
    """Raise WrongError if the answer is not that of the repeated rows."""
    error = max(float(np.abs(part - grad).max()) for part in result.grad.reshape(-1, *grad.shape))
    if error > 1e-4 * np.abs(grad).max() or abs(result.loss - loss) > 1e-4 * loss:
        raise WrongError(f"must be {loss}, as local torch has it; given {result.loss}, off {error}")
