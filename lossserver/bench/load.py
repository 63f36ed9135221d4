"""One process that sends: orders in, outcomes out.

Messages are ready bytes, sent again and again; of a reply only its length and
the server's timings are read. The event loop waits by select(), which counts
microseconds: epoll counts milliseconds, and each arrival of an open loop would
be late by half of one.
"""

import asyncio
import gc
import itertools
import selectors
import signal
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from lossserver.bench.outcomes import Outcomes, Window, arrivals
from lossserver.bench.streamed import Streamed
from losswire import frame
from losswire.errors import MessageError
from losswire.v1 import loss_pb2 as pb

SERVICE = "losswire.v1.LossService"

#: Seconds to connect.
PATIENCE = 10.0

CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Else channels to one target share a connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]

Stub = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What one process has to do.

    Attributes:
        target: where the server listens.
        messages: to send in turn.
        callers: of a closed loop.
        rate: calls a second of an open loop; 0 is a closed loop.
        warmup: seconds before the window.
        seconds: of the window.
        deadline: seconds for each call.
        connections: to open.
        plane: "inline", or "stream": how calls travel.
        seed: of the arrivals.
    """

    target: str
    messages: tuple[bytes, ...]
    callers: int
    rate: float
    warmup: float
    seconds: float
    deadline: float
    connections: int
    plane: str
    seed: int


@dataclass(kw_only=True)
class Report:
    """What one process has to tell.

    Attributes:
        kinds: what became of the calls, for each message.
        late: seconds by which each call of an open loop was sent too late.
        busy: share of the window for which the process used a core.
    """

    kinds: list[Outcomes]
    late: "array[float]" = field(default_factory=lambda: array("d"))
    busy: float = 0.0


def run(orders: Orders, pipe: Connection, progress: Any, place: int) -> None:
    """Connect, say so, wait for the time to start, send, and give the report; or what went wrong.

    Parameters:
        orders: what to do.
        pipe: to whoever gave them: out goes "" or what is wrong, in comes the moment at which
            to start, out goes the Report.
        progress: numbers of calls ended so far, of all processes.
        place: which of them is this one's.
    """
    # Ctrl-C is for whoever gave the orders, and who then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_run(orders, pipe, progress, place))


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(orders: Orders, pipe: Connection, progress: Any, place: int) -> None:
    channels = [
        grpc.aio.insecure_channel(orders.target, CHANNEL) for _ in range(orders.connections)
    ]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
    except TimeoutError:
        pipe.send(f"{orders.target} does not answer")
        return
    pipe.send("")
    start: float = pipe.recv()
    gc.collect()
    gc.freeze()
    load = _Load(orders, [_stub(channel, orders.plane) for channel in channels], start)
    counting = asyncio.create_task(load.count_into(progress, place))
    await (load.open() if orders.rate else load.closed())
    await counting
    pipe.send(load.report)
    for channel in channels:
        await channel.close()


def _stub(channel: grpc.aio.Channel, plane: str) -> Stub:
    if plane == "stream":
        return Streamed(channel.stream_stream(f"/{SERVICE}/ComputeStream"))
    return channel.unary_unary(f"/{SERVICE}/Compute")


class _Load:
    """The calls of one process."""

    def __init__(self, orders: Orders, stubs: list[Stub], start: float) -> None:
        self._orders = orders
        self._stubs = stubs
        begin = start + orders.warmup
        self._start = start
        self._window = Window(begin=begin, end=begin + orders.seconds)
        self._ended = 0
        self.report = Report(kinds=[Outcomes() for _ in orders.messages])

    async def closed(self) -> None:
        """Each caller sends its next call when the last is answered."""
        await asyncio.gather(*(self._caller(i) for i in range(self._orders.callers)))

    async def _caller(self, first: int) -> None:
        stub = self._stubs[first % len(self._stubs)]
        await asyncio.sleep(self._start - time.monotonic())
        for i in itertools.count(first):
            meant = time.monotonic()
            if meant >= self._window.end:
                return
            await self._one(stub, i, meant)

    async def open(self) -> None:
        """Calls come as they come, whether or not earlier ones have been answered."""
        running: set[asyncio.Task[None]] = set()
        for i, moment in enumerate(arrivals(self._orders.rate, self._orders.seed)):
            meant = self._start + moment
            if meant >= self._window.end:
                break
            await asyncio.sleep(meant - time.monotonic())
            if meant in self._window:
                self.report.late.append(time.monotonic() - meant)
            task = asyncio.create_task(self._one(self._stubs[i % len(self._stubs)], i, meant))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    async def _one(self, stub: Stub, i: int, meant: float) -> None:
        kind = i % len(self._orders.messages)
        message = self._orders.messages[kind]
        outcomes = self.report.kinds[kind]
        left = meant + self._orders.deadline - time.monotonic()
        try:
            reply: bytes = await stub(message, timeout=left)
        except grpc.aio.AioRpcError as error:
            outcomes.ended(meant, time.monotonic(), error.code().name, self._window)
        else:
            ended = time.monotonic()
            outcomes.ended(meant, ended, "OK", self._window)
            if ended in self._window:
                outcomes.replied(len(message), len(reply), timings_of(reply))
        self._ended += 1

    async def count_into(self, progress: Any, place: int) -> None:
        """Say how many calls have ended, now and then, and how busy the process was."""
        await asyncio.sleep(self._window.begin - time.monotonic())
        used, since = time.process_time(), time.monotonic()
        while (left := self._window.end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.25))
            progress[place] = self._ended
        self.report.busy = (time.process_time() - used) / (time.monotonic() - since)


def timings_of(reply: bytes) -> pb.Timings | None:
    """Where the server says its time went; None if it says nothing."""
    try:
        header = pb.ResultHeader.FromString(frame.read(reply).header)
    except (MessageError, DecodeError):
        return None
    return header.timings if header.HasField("timings") else None
