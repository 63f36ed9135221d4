"""The way to a device and back: what lies there when, and what waits for what.

    Staging    Copies are made when they are asked for. On the CPU there are none:
               tensors are used where they lie.
    Streamed   Copies are queued, on streams of their own, from and to pinned memory:

                   copy-in        batch 3
                   compute        batch 2       (the thread's own stream)
                   copy-out       batch 1

               Nothing of it waits for the device, but for the results, in `Pending.finish`.

What a stream writes, another reads after an event; and memory that torch gave
out on one stream is marked as used by another, since torch would lend it again on
the first as soon as Python lets go of it.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from lossserver.job import Computed
from lossserver.slab import Event, Slabs, joined, plan, write

log = logging.getLogger("lossserver")

#: Bytes of pinned memory a device. A batch of the default 2^22 elements has 16 MiB of float32 on
#: each way; two of them are on their way, and some wait to be encoded. What finds no room there is
#: copied as if there were no streams: later, never wrongly.
PINNED = 256 << 20


#: Gives tensors on the host, once they are there.
Landing = Callable[[], list[Tensor]]


class Pending(NamedTuple):
    """A batch that a device has been told to compute.

    Attributes:
        landing: what it will give.
        computed: makes results of that.
    """

    landing: Landing
    computed: Callable[[list[Tensor]], list[Computed]]

    def finish(self) -> list[Computed]:
        """The results, waited for.

        Raises:
            RuntimeError: the device failed meanwhile.
        """
        return self.computed(self.landing())


class Staging:
    """A device whose copies are made when they are asked for.

    Class attributes:
        overlaps: a batch can be begun before the one before it is finished.
    """

    overlaps: ClassVar[bool] = False

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def bring_in(self, columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Each column concatenated, on the device. On the CPU a lone part is the very tensor."""
        found = [joined(column) for column in columns]
        return found if self.device.type == "cpu" else [one.to(self.device) for one in found]

    def bring_out(self, found: Sequence[Tensor]) -> Landing:
        """The tensors, on their way to the host."""
        there = [*found] if self.device.type == "cpu" else [one.cpu() for one in found]
        return lambda: there


class Streams(Protocol):
    """The streams of a device, as one thread uses them."""

    inward: Any
    outward: Any

    def own(self) -> Any:
        """The stream on which the thread computes."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Where the thread's copies go meanwhile."""

    def mark(self, stream: Any) -> Event:
        """What has happened once all is done that was queued there so far."""

    def after(self, stream: Any, event: Event) -> None:
        """Let what is queued there from now on wait for an event."""

    def keep(self, tensor: Tensor, stream: Any) -> None:
        """Lend the tensor's memory to nobody before all is done that is queued there when it ends."""


class TorchStreams:
    """The streams that torch has for a device."""

    def __init__(self, device: torch.device) -> None:
        self._of: Any = torch.get_device_module(device)
        self._device = device
        self.inward = self._of.Stream(device)
        self.outward = self._of.Stream(device)

    def own(self) -> Any:
        """The stream on which the thread computes."""
        return self._of.current_stream(self._device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Where the thread's copies go meanwhile."""
        context: AbstractContextManager[Any] = self._of.stream(stream)
        return context

    def mark(self, stream: Any) -> Event:
        """What has happened once all is done that was queued there so far."""
        event: Event = stream.record_event()
        return event

    def after(self, stream: Any, event: Event) -> None:
        """Let what is queued there from now on wait for an event."""
        stream.wait_event(event)

    def keep(self, tensor: Tensor, stream: Any) -> None:
        """Lend the tensor's memory to nobody before all is done that is queued there when it ends."""
        tensor.record_stream(stream)


class Streamed(Staging):
    """A device whose copies are queued. Of one thread.

    Parameters:
        device: the device.
        slabs: host memory that it reads and writes by itself.
        streams: its streams.
    """

    overlaps: ClassVar[bool] = True

    def __init__(self, device: torch.device, slabs: Slabs, streams: Streams) -> None:
        super().__init__(device)
        self._slabs = slabs
        self._streams = streams

    def bring_in(self, columns: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Each column concatenated, on the device by the time that what is queued next computes."""
        streams = self._streams
        own, inward = streams.own(), streams.inward
        places, size = plan(columns)
        slab = self._slabs.take(size)
        if slab is None:
            # On that stream, so as to wait for the copy only, and not for what is being computed.
            with streams.on(inward):
                found = super().bring_in(columns)
            copied, brought = streams.mark(inward), found
        else:
            write(columns, places, slab.memory)
            with streams.on(inward):
                block = slab.memory.to(self.device, non_blocking=True)
            copied, brought = streams.mark(inward), [block]
            slab.until(copied)
            found = [place.of(block) for place in places]
        streams.after(own, copied)
        for one in brought:
            streams.keep(one, own)
        return found

    def bring_out(self, found: Sequence[Tensor]) -> Landing:
        """The tensors, on their way to the host as soon as they are computed."""
        streams, outward = self._streams, self._streams.outward
        streams.after(outward, streams.mark(streams.own()))
        places, size = plan([[one] for one in found])
        slab = self._slabs.take(size)
        if slab is None:
            return lambda: self._fetched(found)
        there = [place.of(slab.memory) for place in places]
        with streams.on(outward):
            for one, own in zip(there, found, strict=True):
                one.copy_(own, non_blocking=True)
                if own.device.type != "cpu":  # what a loss left on the host is copied at once
                    streams.keep(own, outward)
        landed = streams.mark(outward)
        slab.until(landed)

        def wait() -> list[Tensor]:
            landed.synchronize()
            return there

        return wait

    def _fetched(self, found: Sequence[Tensor]) -> list[Tensor]:
        with self._streams.on(self._streams.outward):
            return [one.cpu() for one in found]


def staging(device: torch.device, pinned: int = PINNED) -> Staging:
    """The way to a device; by streams and so many bytes of pinned memory where it has those."""
    if device.type == "cpu" or not hasattr(getattr(torch, device.type, None), "Stream"):
        return Staging(device)
    try:
        memory = torch.empty(pinned, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        log.warning(
            "copies to %s wait for each other, for want of pinned memory: %s", device, error
        )
        return Staging(device)
    return Streamed(device, Slabs(memory), TorchStreams(device))
