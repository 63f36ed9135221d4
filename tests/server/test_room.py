"""lossserver.room and gather: an answer written where its call has room for it."""

import asyncio

import numpy as np
import pytest
import torch

from lossserver.gather import SLICE, gathered
from lossserver.room import Room
from losswire.frame import Parts
from losswire.v1 import loss_pb2 as pb
from tests.server.jobs import job_of
from tests.server.pools import pool_of


def room_of(size: int) -> tuple[Room, bytearray]:
    memory = bytearray(size)
    return Room(pb.Span(region=3, offset=640, bytes=size), memoryview(memory)), memory


def spans(parts: Parts) -> list[tuple[int, int, int]]:
    found = [pb.Elsewhere.FromString(bytes(one)).span for one in parts.elsewhere]
    return [(one.region, one.offset, one.bytes) for one in found]


def test_an_answer_that_fits_is_all_there():
    """Each payload begins at a multiple of 64, and the message has none."""
    room, memory = room_of(200)
    placed = room.placed(Parts(b"head", [b"loss", b"gradient"]))

    assert placed.header == b"head"
    assert [*placed.payloads] == []
    assert spans(placed) == [(3, 640 + 64, 4), (3, 640, 8)]
    assert bytes(memory[:8] + memory[64:68]) == b"gradientloss"


def test_what_does_not_fit_stays_in_the_message():
    """Then so does all that is numbered before it."""
    room, memory = room_of(64)
    placed = room.placed(Parts(b"", [b"a", b"b" * 65, b"c"]))

    assert [*placed.payloads] == [b"a", b"b" * 65]
    assert spans(placed) == [(3, 640, 1)]
    assert memory[:1] == b"c"


def test_what_is_there_already_is_not_copied():
    """A tensor that was made in the room is only told of."""
    room, memory = room_of(256)
    tensor = room.empty((2, 3), torch.float32)
    tensor.copy_(torch.arange(6.0).view(2, 3))
    placed = room.placed(Parts(b"", [b"loss", tensor.numpy().reshape(-1).view("uint8").data]))

    assert spans(placed) == [(3, 640 + 64, 4), (3, 640, 24)]
    assert torch.frombuffer(memory, dtype=torch.float32)[:6].tolist() == list(range(6))


def test_a_tensor_for_which_there_is_no_room_has_its_own():
    """It can be written all the same; and one without elements needs none."""
    room, _ = room_of(64)

    assert room.empty((100,), torch.float32).shape == (100,)
    assert room.empty((0, 3), torch.bfloat16).shape == (0, 3)


@pytest.mark.parametrize("fits", [True, False])
def test_a_large_job_is_gathered(fits):
    """Computed slice by slice, it is what it is as a whole, and its gradient is in the room."""
    elements = 3 * SLICE // 8 + 5

    async def scenario():
        pool = pool_of()
        pool.start()
        try:
            room, memory = room_of(elements * 4 if fits else 100)
            job = job_of(2.0, elements=elements)
            result = await gathered(job, pool, room)
            whole = job_of(2.0, elements=elements)
            pool.put(whole)
            return result, memory, await whole.future
        finally:
            pool.stop()

    result, memory, whole = asyncio.run(scenario())
    grad = result.computed.grads["pred"]

    assert torch.equal(grad, whole.computed.grads["pred"])
    assert result.computed.losses["loss"].item() == pytest.approx(
        whole.computed.losses["loss"].item()
    )
    assert np.shares_memory(np.frombuffer(memory, np.uint8), grad.numpy()) == fits
