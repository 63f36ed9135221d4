"""Devices by name, and the few things asked of one whatever its make."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lossserver.config import Device
from lossserver.faults import is_full
from lossserver.losses.focal import FocalLoss

CPU = torch.device("cpu")


def open_devices(config: Device) -> list[torch.device]:
    """The devices asked for, after torch has been told its threads.

    Raises:
        ValueError: one is not there, is named twice, or is of another type than the first.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    devices = [_open(name) for name in names(config.device, torch.cuda.device_count())]
    if len(set(devices)) < len(devices):
        raise ValueError(f"device must name each one once; given {config.device!r}")
    if len({device.type for device in devices}) > 1:
        raise ValueError(f"device must name devices of one type; given {config.device!r}")
    return devices


def names(asked: str, found: int) -> list[str]:
    """The names that "cuda:0,cuda:1" or "auto" means where `found` CUDA devices are."""
    if asked == "auto":
        return [f"cuda:{index}" for index in range(found)] or ["cpu"]
    return [name.strip() for name in asked.split(",")]


def _open(name: str) -> torch.device:
    try:
        there = torch.zeros(1, device=name)
        there.item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch finds here; given {name!r}") from error
    return there.device  # with its index, which "cuda" lacks


def warm(device: torch.device) -> None:
    """Make torch load what the first call would wait for, half a second of it."""
    scores = torch.zeros(2, 2, device=device, requires_grad=True)
    loss = FocalLoss().formula(scores, torch.zeros(2, dtype=torch.long, device=device))
    torch.autograd.grad(loss, scores, torch.ones_like(loss))


def settle_in(device: torch.device, threads: int) -> None:
    """Make a device the calling thread's own, and give the thread its share of the CPU."""
    # torch gives a thread, when it first asks, the number that was set last anywhere: the loop's 1.
    torch.get_num_threads()
    torch.set_num_threads(threads)
    if device != CPU:
        # A kernel that is not torch's own goes to whichever device is current.
        torch.accelerator.set_device_index(device.index)


@contextmanager
def half_of_threads() -> Iterator[None]:
    """Compute with half of the calling thread's share of the CPU meanwhile, if it is two or more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def free(device: torch.device) -> None:
    """Give back the memory that torch keeps for later, if it keeps any of this device."""
    make: Any = getattr(torch, device.type, None)
    if hasattr(make, "empty_cache"):
        make.empty_cache()


def answers(device: torch.device) -> bool:
    """Whether a device still computes. What is fatal to one is repeated by its every later call."""
    if device == CPU:
        return True
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        return is_full(error)
    return True
