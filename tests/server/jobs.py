"""Jobs for tests of who computes them: a loss that raises what a row of it asks for."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lossserver.job import Job
from lossserver.losses.loss import Call
from lossserver.losses.rows import Elementwise

#: What a row of this value raises, wherever it is computed.
RAISES: dict[int, Callable[[], BaseException]] = {
    200: lambda: ArithmeticError("above 100"),
    300: lambda: SystemExit("a loss that ends its thread"),
    400: lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
    500: lambda: StopIteration("which no future can have"),
    600: lambda: MemoryError("none left"),
}


@dataclass(frozen=True, kw_only=True)
class Touchy(Elementwise):
    """A loss of which one row makes the whole batch raise; it counts what it computed."""

    def formula(self, pred, target):
        COMPUTED.extend(pred.tolist())
        THREADS.append(threading.current_thread().name)
        raise_if_asked(pred)
        return pred - target


def raise_if_asked(pred: torch.Tensor) -> None:
    """Raise what a row asks for, if any does."""
    for value, error in RAISES.items():
        if bool((pred == value).any()):
            raise error()


#: The rows that were computed since a test cleared it, and who computed each batch.
COMPUTED: list[float] = []
THREADS: list[str] = []


def job_of(value: float, *, elements: int = 4, **more: Any) -> Job:
    """A job of that many elements, all of them `value`."""
    pred = torch.full((elements,), float(value))
    call = Call(inputs={"pred": pred, "target": torch.zeros(elements)}, wrt=frozenset({"pred"}))
    loss = Touchy()
    rows = loss.rows(call)
    assert rows is not None
    fields: dict[str, Any] = {"rows": rows, "key": rows.formula, "deadline": None}
    fields |= {"arrived": time.monotonic(), "future": asyncio.get_running_loop().create_future()}
    return Job(name="Touchy", loss=loss, call=call, elements=elements, **fields | more)
