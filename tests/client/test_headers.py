"""Headers that are remembered say the same as those that are written anew."""

import dataclasses

import numpy as np
import pytest

from lossclient.call import call_message
from lossclient.headers import plain_reply
from lossclient.reply import decode_reply
from losswire import tensor
from losswire.errors import LossError, SpecError
from losswire.frame import Parts
from losswire.tensor import TensorBytes
from losswire.v1 import loss_pb2 as pb

PRED = np.arange(12, dtype=np.float32).reshape(3, 4)
TARGET = np.array([0, 1, 2])


class Config(dict):
    """A config of a kind that is never remembered, such as mmengine's."""


CONFIGS = [
    {"type": "L1Loss"},
    {"type": "FocalLoss", "gamma": 2.0, "activated": False},
    {"type": "FocalLoss", "gamma": 2, "activated": 0},
    {"type": "FocalLoss", "gamma": -0.0},
    {"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0, 0.5, 1.0]},
    {"type": "A", "b": {"c": [None, True, {"d": "e"}]}},
    {"type": "CrossEntropyLoss", "class_weight": np.ones(4)},
]
OPTIONS = [
    {},
    {"weight": np.ones(3)},
    {"avg_factor": 3},
    {"avg_factor": 2.5, "reduction_override": "sum", "wrt": ()},
    {"wrt": ["pred", "target"], "ignore_index": 3},
    {"pred": PRED.T},
    {"pred": PRED.astype(">f4"), "weight": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: ",".join(one) or "none")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_call_says_the_same(config, options):
    """The first time and the second time, whatever was remembered before of one that is equal."""
    arguments = {"pred": PRED, "target": TARGET, **options}
    written = call_message(Config(config), **arguments)
    said = pb.ComputeHeader.FromString(written.header)

    for _ in range(2):
        found = call_message(config, **arguments)
        assert pb.ComputeHeader.FromString(found.header) == said
        assert list(map(bytes, found.payloads)) == list(map(bytes, written.payloads))


def test_numbers_that_are_equal_are_told_apart():
    """1, 1.0 and True are three things on the wire, and 0.0 and -0.0 two."""
    headers = [
        call_message({"type": "L1Loss", "x": x}, PRED, TARGET).header
        for x in (1, 1.0, True, 0.0, -0.0)
    ]

    assert len(set(headers)) == 5


def reply_of(metrics=()):
    """The parts of a reply, its timings last, as a server of ours writes them."""
    header = pb.ResultHeader(metrics=metrics)
    for index, (of, name, shape) in enumerate(
        [(header.losses, "loss", ()), (header.grads, "pred", (3, 4))]
    ):
        described = tensor.describe(TensorBytes("float32", shape, b""), index)
        of[name].tensor_value.CopyFrom(described)
    timings = pb.ResultHeader(timings=pb.Timings(queue=0.5, batch=3, fused=True))
    payloads = [np.float32(2).tobytes(), PRED.tobytes()]
    return header.SerializeToString(), timings.SerializeToString(), payloads


def test_a_reply_says_the_same():
    """Whether or not it is one of those that are remembered."""
    header, timings, payloads = reply_of()
    known, unknown = header + timings, timings + header
    lengths = tuple(map(len, payloads))
    found, written = (decode_reply(Parts(one, payloads), tensor.unpack) for one in (known, unknown))

    assert plain_reply(known, lengths) is not None
    assert plain_reply(unknown, lengths) is None
    for field in dataclasses.fields(found):
        np.testing.assert_equal(getattr(found, field.name), getattr(written, field.name))


def test_a_lone_metric_is_the_loss():
    """As of any reply."""
    header, timings, payloads = reply_of(metrics=["loss"])

    assert decode_reply(Parts(header + timings, payloads), tensor.unpack).loss == 2.0


@pytest.mark.parametrize("lengths", [(4, 40), (4,), (0, 48)])
def test_payloads_that_do_not_fit_are_refused(lengths):
    """Also where the same header was right before."""
    header, timings, payloads = reply_of()
    decode_reply(Parts(header + timings, payloads), tensor.unpack)
    with pytest.raises(LossError):
        decode_reply(Parts(header + timings, [bytes(n) for n in lengths]), tensor.unpack)


def test_a_config_that_contains_itself_is_refused():
    """By the rule that bounds all nesting, not by Python's."""
    config = {"type": "L1Loss"}
    config["loss"] = config

    with pytest.raises(SpecError, match="nested at most 16 deep"):
        call_message(config, PRED, TARGET)
