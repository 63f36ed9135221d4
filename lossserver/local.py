"""A call computed in the caller's own process: the pipeline without sockets.

    parts → decode → compute → encode → parts

The client finds `compute` by its entry point (pyproject.toml) and never imports this
package. On the CPU, where the call's bytes are; a trainer's GPU is full of its model.
"""

import functools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from lossserver.compute import compute as computed
from lossserver.decode import decode
from lossserver.encode import encode
from lossserver.job import Result
from lossserver.told import told
from losswire.errors import DeadlineError
from losswire.frame import Parts

CPU = torch.device("cpu")

#: Nobody waits for a job that is in no queue.
NOBODY: Any = None


def compute(parts: Parts, timeout: float | None) -> Parts:
    """The parts of the answer to a call of these parts.

    In a thread of its own: what the caller's has set for torch (autocast, inference mode, a default
    device) would change what the formulas give.

    Raises:
        LossError: as a server says it.
    """
    future = _thread(os.getpid()).submit(_answer, parts)
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise DeadlineError(f"this process must answer within the timeout of {timeout} s") from None


@functools.cache
def _thread(_: int) -> ThreadPoolExecutor:
    """The thread of a process, by its id: a forked one has none of its parent's."""
    return ThreadPoolExecutor(1, "lossserver.local")


def _answer(parts: Parts) -> Parts:
    started = time.monotonic()
    try:
        job = decode(parts, None, NOBODY)
        decoded = time.monotonic()
        (found,) = computed([job], CPU)
        seconds = time.monotonic() - decoded
        result = Result(computed=found, batch=1, queue=0.0, compute=seconds)
        return encode(result, decoded - started, job)
    except Exception as error:  # noqa: BLE001  (all of them are told as a server does)
        raise told(error) from None
