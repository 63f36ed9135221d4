"""Jobs and kernels without a server around them, for what is measured in process."""

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import torch

import lossserver.losses  # noqa: F401  (registers them)
from lossserver.bench.calls import message_of
from lossserver.compile import Kernels
from lossserver.config import Fusing
from lossserver.decode import decode
from lossserver.job import Job
from lossserver.metrics import Metrics
from lossserver.together import order
from losswire import frame

CPU = torch.device("cpu")


def job_of(call: str, seed: int) -> Job:
    """The job that a call becomes, written as for `lossserver bench`."""
    return decode(frame.read(message_of(call, seed)), None, Future())  # type: ignore[arg-type]


@contextmanager
def kernels_for(jobs: list[Job]) -> Iterator[Kernels]:
    """Kernels of those jobs' formulas, made now.

    Raises:
        SystemExit: one cannot be made.
    """
    with Kernels(Fusing(), Metrics()) as kernels:
        for job in jobs:
            if not kernels.prepare(*order([job], CPU)):
                raise SystemExit(f"no kernel could be made for {job.name}")
        yield kernels
