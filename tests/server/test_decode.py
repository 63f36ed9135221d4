"""lossserver.decode and encode: what a header says besides, and what a reply says of how it was made."""

import asyncio

import numpy as np
import pytest
import torch

from lossclient.call import call_message, encode_call
from lossserver.decode import decode
from lossserver.encode import encode
from lossserver.job import Computed, Result
from lossserver.outline import outline
from losswire.errors import SpecError
from losswire.frame import Parts
from losswire.v1 import loss_pb2 as pb

HEADER = pb.ComputeHeader(
    config=pb.Value(map_value=pb.ValueMap(entries={"type": pb.Value(string_value="L1Loss")})),
    inputs={
        name: pb.Value(tensor_value=pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2, 3], payload=i))
        for i, name in enumerate(("pred", "target"))
    },
)


def job_of(message):
    """The job of a message, for tenant "ours"."""

    async def decoded():
        return decode(message, None, asyncio.get_running_loop().create_future(), "ours")

    return asyncio.run(decoded())


@pytest.mark.parametrize(
    ("sent", "priority"),
    [(pb.PRIORITY_UNSPECIFIED, 1), (pb.PRIORITY_HIGH, 0), (pb.PRIORITY_LOW, 2), (77, 1)],
)
def test_a_priority_of_the_wire_is_the_job_s(sent, priority):
    """High goes before the usual, and that before low; what is not known is the usual."""
    header = pb.ComputeHeader(priority=sent)
    header.MergeFrom(HEADER)
    job = job_of(Parts(header.SerializeToString(), [bytes(24), bytes(24)]))

    assert job.priority == priority


def test_a_job_knows_whose_it_is():
    """Fairness goes by the tenant."""
    pred = np.zeros((2, 3), np.float32)

    assert job_of(call_message({"type": "L1Loss"}, pred, pred)).tenant == "ours"


@pytest.mark.parametrize("fused", [False, True])
def test_a_reply_says_whether_a_kernel_made_it(fused):
    """Beside how long it took."""
    computed = Computed(losses={"loss": torch.zeros(())}, grads={}, fused=fused)
    result = Result(computed=computed, batch=300, queue=0.25, compute=0.5)
    serialised = encode(result, 0.125).header
    timings = pb.ResultHeader.FromString(serialised).timings

    assert timings.fused == fused
    assert (timings.decode, timings.queue, timings.compute, timings.batch) == (
        0.125,
        0.25,
        0.5,
        300,
    )
    assert timings.encode > 0


@pytest.mark.parametrize(
    ("config", "wrt", "lent"),
    [
        ({"type": "L1Loss"}, ["pred"], [True, False]),
        ({"type": "L1Loss"}, ["pred", "target"], [True, False]),
        ({"type": "L1Loss"}, [], [False, False]),
        ({"type": "torch.BCELoss"}, ["pred"], [False, False]),
        ({"type": "FocalLoss", "activated": True}, ["pred"], [False, False]),
    ],
    ids=["pred", "both", "neither", "checked", "activated"],
)
def test_only_what_is_not_checked_is_read_where_it_lies(config, wrt, lent):
    """A sender that shares the memory could change it after the check."""
    array = np.full((2, 3), 0.5, np.float32)
    parts = encode_call(config, {"pred": array, "target": array}, wrt=wrt)
    said = outline(parts.header, tuple(map(len, parts.payloads)))

    assert [one.lent for one in sorted(said.sources, key=lambda one: one.payload)] == lent


def test_a_header_is_remembered_whatever_its_avg_factor():
    """The number of positives is another at each step, and all else of the header the same."""
    found = [
        outline(HEADER.SerializeToString() + part.SerializeToString(), (24, 24))
        for part in (pb.ComputeHeader(avg_factor=2.0), pb.ComputeHeader(avg_factor=-0.5))
    ]

    assert [one.blank.avg_factor for one in found] == [2.0, -0.5]
    assert found[0].sources is found[1].sources


def test_what_only_looks_like_an_avg_factor_is_none():
    """The end of a text, with the byte that an avg_factor begins with in front of eight others."""
    header = pb.ComputeHeader(reduction_override=")12345678")
    said = outline(HEADER.SerializeToString() + header.SerializeToString(), (24, 24))

    assert (said.blank.avg_factor, said.blank.reduction_override) == (None, ")12345678")


def test_an_avg_factor_that_has_no_place_is_refused_as_it_was_sent():
    """The error gives the caller's own number."""
    header = pb.ComputeHeader.FromString(HEADER.SerializeToString())
    header.config.map_value.entries["type"].string_value = "BarlowTwinsLoss"
    sent = header.SerializeToString() + pb.ComputeHeader(avg_factor=7.5).SerializeToString()

    with pytest.raises(SpecError, match=r"avg_factor: .* given 7\.5"):
        outline(sent, (24, 24))
