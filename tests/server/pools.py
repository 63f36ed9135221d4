"""Pools for tests: jobs put together, and what becomes of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lossserver.batch import BatchLimits
from lossserver.device import CPU
from lossserver.job import Job
from lossserver.metrics import Metrics
from lossserver.pool import Pool


def pool_of(devices: Sequence[torch.device] = (CPU,), **given: Any) -> Pool:
    """A pool on the running loop; what is given is for it, or else for its limits."""
    of_pool = {name: given.pop(name) for name in ("metrics", "on_lost") if name in given}
    loop = asyncio.get_running_loop()
    return Pool(devices, BatchLimits(**given), loop, **{"metrics": Metrics()} | of_pool)


async def outcomes(
    *jobs: Job, before: Callable[..., object] = lambda *_: None, **given: Any
) -> list[Any]:
    """What becomes of jobs put together."""
    pool = pool_of(**given)
    pool.expect()  # as gRPC says of a second caller at the door; the first would not wait for it
    before(*jobs)
    for job in jobs:
        pool.put(job)
    pool.start()
    try:
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    finally:
        pool.stop()
