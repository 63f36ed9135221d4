"""How a server ends: when it is told to, when a device is lost, and not later than it may."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

import grpc
import torch

from lossserver.admit import Admission
from lossserver.pool import Pool

log = logging.getLogger("lossserver")

#: Seconds that whoever is still connected has to leave once no call is open.
FAREWELL = 0.5

#: Seconds that the event loop waits for threads before it looks whether a signal has come.
LOOK = 0.05


class Ending:
    """Whether the server is to end, and why.

    Attributes:
        near: set once it is to end.
        at_once: set once it is not to wait for calls in flight.
        wished: it was told to stop; then it does, whatever else happened.
        lost: the device that was lost first.
    """

    def __init__(self) -> None:
        self.near = asyncio.Event()
        self.at_once = asyncio.Event()
        self.wished = False
        self.lost: torch.device | None = None

    def stop(self) -> None:
        """Take note of a signal to stop."""
        if self.wished:
            self.at_once.set()
        self.wished = True
        self.near.set()

    def lose(self, device: torch.device) -> None:
        """Take note that a device is lost."""
        self.lost = self.lost or device
        self.near.set()


async def unless(near: asyncio.Event, work: Callable[..., object], *args: object) -> None:
    """Wait for `work(*args)`, which takes long, in a thread; no longer once the server is to end.

    A thread that the process does not wait for, as it would for asyncio's own.
    """
    done: Future[object] = Future()

    def run() -> None:
        """Do it, and tell how it ended."""
        try:
            done.set_result(work(*args))
        except Exception as error:  # noqa: BLE001  (whoever waits is told)
            done.set_exception(error)

    threading.Thread(target=run, name="unless", daemon=True).start()
    made, ending = asyncio.wrap_future(done), asyncio.ensure_future(near.wait())
    either: list[asyncio.Future[Any]] = [made, ending]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if made.done():
        await made


async def drain(
    server: grpc.aio.Server,
    admission: Admission,
    at_once: asyncio.Event,
    timeout: float,  # noqa: ASYNC109  (an option of the server, not of this function)
) -> None:
    """Stop the server once no call is open, `at_once` is set or `timeout` seconds are over.

    Not once nothing is open: whoever watches our health, as load balancers do,
    would hold us up until the time is over.
    """
    stopping = asyncio.create_task(server.stop(timeout))
    ends = [asyncio.create_task(one) for one in (_quiet(admission), at_once.wait())]
    await asyncio.wait([stopping, *ends], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    await server.stop(0 if at_once.is_set() else FAREWELL)
    await stopping


async def stop(pool: Pool, at_once: asyncio.Event, end: float) -> bool:
    """Stop the pool; wait for its threads no longer than to `end`, or until `at_once` is set.

    A device that hangs, or a job that takes for ever, ends with the process (`leave`).

    Returns:
        Whether all threads have ended.
    """
    end = max(end, time.monotonic() + FAREWELL)
    while not pool.stop(LOOK):
        if at_once.is_set() or time.monotonic() > end:
            log.warning("a device computes still and is not waited for")
            return False
        await asyncio.sleep(0)  # a signal may have come
    return True


def leave() -> NoReturn:
    """End the process though a thread computes still.

    In the usual way the interpreter would be taken apart first, and torch aborts the process if one
    of its threads comes back after that.
    """
    logging.shutdown()
    os._exit(0)


async def _quiet(admission: Admission) -> None:
    """Wait until no call is open, and none begins that gRPC accepted before it was told to stop."""
    while True:
        await admission.empty()
        await asyncio.sleep(FAREWELL)
        if not admission.calls:
            return
