"""Storms of calls for a server (stormy.py): some poisoned, or many cancelled, at random.

Everybody's result is compared with what the same call gave when it was alone.
"""

import asyncio
import random
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from lossclient.call import call_message
from lossclient.reply import decode_reply
from losswire import frame

#: Calls in flight at once, on each of the channels.
WINDOW = 32
CHANNELS = 3

#: Seconds within which a call that is to be cancelled is: most are computed sooner.
MOMENT = 0.02

#: What stormy.py ends its log with.
WATCHED = re.compile(r"computed after they were cancelled: (\d+)")

COMPUTE = "/losswire.v1.LossService/Compute"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A call, and how it must end: with its lone result, or with a code."""

    message: bytes
    code: str = "OK"
    alone: list[np.ndarray[Any, Any]] = field(default_factory=list)


@dataclass
class Tally:
    """How calls ended: how often each way, and in words what should not have been."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def message_of(*args: Any) -> bytes:
    """The message of a call."""
    return frame.write(*call_message(*args))


def innocents(generator: np.random.Generator) -> list[bytes]:
    """Calls of several losses and sizes, most of them small."""
    calls = []
    for rows in (1, 2, 3, 8, 20, 64, 700):
        pred = generator.standard_normal((rows, 20)).astype(np.float32)
        labels, other = generator.integers(0, 20, rows), pred[::-1].copy()
        weight = generator.random(rows).astype(np.float32)
        boxes = np.sort(generator.random((rows, 4)).astype(np.float32))
        calls += [
            message_of({"type": "FocalLoss"}, pred, labels),
            message_of({"type": "CrossEntropyLoss"}, pred, labels, weight),
            message_of({"type": "L1Loss", "reduction": "sum"}, pred, other),
            message_of({"type": "GIoULoss"}, boxes, boxes[::-1].copy()),
            message_of({"type": "test.Stormy"}, pred, other),
            message_of({"type": "test.LoneStormy"}, pred, other),
        ]
    return calls


def poisons() -> list[Sample]:
    """Calls that must fail: refused when they are read, or raising when they are computed."""
    pred, index = np.zeros((4, 20), np.float32), np.zeros(4, np.int64)
    asks = [("INTERNAL", 200), ("RESOURCE_EXHAUSTED", 400), ("INTERNAL", 500), ("INTERNAL", 300)]
    asks.append(("RESOURCE_EXHAUSTED", 600))
    raising = [
        Sample(message=message_of({"type": loss}, pred + value, pred), code=code)
        for code, value in asks
        for loss in ("test.Stormy", "test.LoneStormy")
    ]
    refused = [
        message_of({"type": "FocalLoss"}, pred, index + 99),
        message_of({"type": "FocalLoss"}, pred, index[:3]),
        message_of({"type": "test.Stormy"}, pred, pred[:3]),
    ]
    return raising + [Sample(message=one, code="INVALID_ARGUMENT") for one in refused]


async def alone(target: str) -> list[Sample]:
    """The innocent calls, with what each gives where nobody else calls."""
    async with grpc.aio.insecure_channel(target) as channel:
        send = channel.unary_unary(COMPUTE)
        messages = innocents(np.random.default_rng(0))
        return [Sample(message=one, alone=_arrays(await send(one))) for one in messages]


async def poisoned(target: str, count: int, share: float = 0.01) -> Tally:
    """Send so many calls, that share of them poisoned."""
    good, bad = await alone(target), poisons()
    chance = random.Random(1)  # noqa: S311  (no secret)
    samples = [chance.choice(bad if chance.random() < share else good) for _ in range(count)]
    tally = Tally()

    async def one(send: Callable[[bytes], Any], sample: Sample) -> None:
        _judge(sample, await _ended(send(sample.message)), tally)

    await _all(target, samples, one)
    return tally


async def cancelled(target: str, count: int, share: float = 0.5) -> Tally:
    """Send so many calls, and give that share of them up at some moment."""
    good = await alone(target)
    chance = random.Random(2)  # noqa: S311  (no secret)
    samples = [chance.choice(good) for _ in range(count)]
    tally = Tally()
    loop = asyncio.get_running_loop()

    async def one(send: Callable[[bytes], Any], sample: Sample) -> None:
        call = send(sample.message)
        if given_up := chance.random() < share:
            loop.call_later(chance.random() ** 2 * MOMENT, call.cancel)
        code, reply = await _ended(call)
        if given_up and code == "CANCELLED":
            tally.ends[code] += 1
        else:
            _judge(sample, (code, reply), tally)

    await _all(target, samples, one)
    return tally


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10


def left_over(metrics_port: int) -> dict[str, float]:
    """Calls, bytes and jobs that a server with nothing to do still has, once it had time to notice."""
    gauges = {"calls": "calls_in_flight", "bytes": "in_flight_bytes", "jobs": "queue_jobs"}
    end = time.monotonic() + 30
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as page:
            text = page.read().decode()
        left = {
            name: float(re.search(rf"^lossserver_{gauge} (\S+)", text, re.MULTILINE)[1])
            for name, gauge in gauges.items()
        }
        if not any(left.values()) or time.monotonic() > end:
            return left


async def _all(
    target: str,
    samples: Sequence[Sample],
    one: Callable[[Callable[[bytes], Any], Sample], Awaitable[None]],
) -> None:
    """Do `one` with each sample, WINDOW at a time on each of several connections."""
    waiting = iter(samples)

    async def caller(send: Callable[[bytes], Any]) -> None:
        for sample in waiting:
            await one(send, sample)

    async def connection(number: int) -> None:
        # Channels of equal arguments share a connection.
        async with grpc.aio.insecure_channel(target, [("storm", number)]) as channel:
            send = channel.unary_unary(COMPUTE)
            await asyncio.gather(*(caller(send) for _ in range(WINDOW)))

    await asyncio.gather(*map(connection, range(CHANNELS)))


async def _ended(call: Any) -> tuple[str, bytes]:
    try:
        return "OK", await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, (error.details() or "").encode()
    except asyncio.CancelledError:
        return "CANCELLED", b""


def _judge(sample: Sample, end: tuple[str, bytes], tally: Tally) -> None:
    code, reply = end
    tally.ends[code] += 1
    if code != sample.code:
        tally.wrong.append(f"{code}, not {sample.code}: {reply[:200]!r}")
    elif code == "OK":
        for own, expected in zip(_arrays(reply), sample.alone, strict=True):
            if not np.allclose(own, expected, rtol=1e-4, atol=1e-6):
                tally.wrong.append(f"{own} is not {expected}")


def _arrays(reply: bytes) -> list[np.ndarray[Any, Any]]:
    result = decode_reply(frame.read(reply), lambda tensor: tensor)
    return [np.frombuffer(one.buffer, one.dtype) for one in (*result.losses.values(), result.grad)]
