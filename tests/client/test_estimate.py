"""Whether a remote loss pays: bytes against those of a real server's answers."""

from typing import Any

import numpy as np
import pytest

import lossclient
from lossclient import estimating
from lossclient.call import call_message
from lossclient.terms import Terms
from losswire import cost, frame
from losswire.errors import NotServedError


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"wire_dtype": "bfloat16"},
        {"wire_dtype": "int8"},
        {"wire_dtype": {"grad": "float16"}},
        {"grad_keep": 0.01},
        {"grad_keep": 0.01, "wire_dtype": "int8"},
        {"grad_keep": 0.9},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_bytes_are_those_that_travel(
    client: lossclient.Client, terms: dict[str, Any], dtype: str
):
    """A real call and its answer have as many bytes as was said, the answer's header apart."""
    rng = np.random.default_rng(0)
    pred = rng.standard_normal((64, 80)).astype(dtype)
    call = {"type": "FocalLoss"}, pred, rng.integers(80, size=64)
    parts = call_message(*call, terms=Terms(**terms))
    reply = client.send(parts, 30.0)
    found = lossclient.estimate(*call, terms=Terms(**terms))

    assert found.up == len(frame.write(*parts))
    assert sum(map(len, reply.payloads)) + cost.HEADER == pytest.approx(found.down, abs=4)


def test_a_loss_that_is_not_reduced_comes_back_too(client: lossclient.Client):
    """It is counted as large as pred, whether the config or the call says so."""
    pred = np.zeros((64, 80), np.float32)
    call = {"type": "L1Loss", "reduction": "none"}, pred, pred
    reply = client.send(call_message(*call), 30.0)
    found = lossclient.estimate(*call)
    asked = lossclient.estimate({"type": "L1Loss"}, pred, pred, reduction_override="none")

    assert sum(map(len, reply.payloads)) + cost.HEADER == pytest.approx(found.down, abs=4)
    assert asked.down == found.down


def test_only_wanted_gradients_are_counted():
    """Without any, the answer is a few bytes."""
    pred = {"a": np.zeros((64, 80), np.float32), "b": [np.zeros((5, 5))]}
    both = lossclient.estimate({"type": "L1Loss"}, pred)
    none = lossclient.estimate({"type": "L1Loss"}, pred, wrt=())

    assert both.down - none.down == 64 * 80 * 4 + 25 * 8
    assert none.down < 200


def test_a_live_server_is_measured(client: lossclient.Client):
    """Each way that the server offers has times of its own, and none is free."""
    pred = np.zeros((4096, 1024), np.float32)
    found = client.estimate({"type": "L1Loss"}, pred, pred)

    assert {"inline", "pieces"} <= found.seconds.keys()
    assert min(found.seconds.values()) > 0


def test_a_server_without_a_way_is_asked_the_others(
    client: lossclient.Client, monkeypatch: pytest.MonkeyPatch
):
    """What is not served costs for ever, and is not among the ways of the estimate."""

    def refused(*_: object) -> None:
        raise NotServedError("not served")

    monkeypatch.setattr(estimating, "pieces", refused)
    pred = np.zeros((4096, 1024), np.float32)

    assert "pieces" not in client.estimate({"type": "L1Loss"}, pred, pred).seconds
