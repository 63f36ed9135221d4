"""lossclient.again: a call like the one before it is written as if it was looked at anew."""

import numpy as np
import pytest

from lossclient.again import call_messages
from lossclient.call import call_message
from lossclient.terms import USUAL, Terms
from losswire.errors import SpecError

L1 = {"type": "L1Loss"}
PRED = np.arange(12, dtype=np.float32).reshape(3, 4)
LONG = np.arange(3000)

#: What may follow one another. No two that are neighbours are to be taken for one another.
FOLLOWING = {
    "other numbers": [(L1, PRED, PRED + 1), (L1, PRED * 2, PRED - 1)],
    "another config": [(L1, PRED, PRED), ({"type": "MSELoss"}, PRED, PRED)],
    "1 and 1.0": [({"type": "L1Loss", "loss_weight": one}, PRED, PRED) for one in (1, 1.0, True)],
    "another dtype": [(L1, PRED, PRED), (L1, PRED.astype(np.float64), PRED)],
    "another byte order": [(L1, PRED, PRED), (L1, PRED.astype(">f4"), PRED), (L1, PRED, PRED)],
    "another shape": [(L1, PRED, PRED), (L1, PRED.reshape(4, 3), PRED.reshape(4, 3))],
    "another order in memory": [(L1, PRED, PRED), (L1, PRED.reshape(4, 3).T, PRED)],
    "more arrays": [(L1, PRED, PRED), (L1, PRED, PRED, PRED), (L1, PRED), (L1, PRED, PRED)],
    "an avg_factor": [
        (L1, PRED, PRED, PRED, one) for one in (3, 4.0, np.array(5.0), np.array(6.0))
    ],
    "None": [(L1, PRED, PRED), (L1, PRED, None), (L1, PRED, None, PRED), (L1, PRED, PRED, None)],
    "a number": [(L1, PRED, PRED), (L1, 1.0, PRED), (L1, np.float32(1), PRED)],
    "a list": [(L1, PRED, PRED), [L1, PRED, PRED], (L1, [PRED, PRED], PRED)],
    "by name": [(L1, PRED, PRED), {"cfg": L1, "pred": PRED, "target": PRED, "avg_factor": 2}],
    "labels that need more bytes": [
        (L1, PRED, LONG),
        (L1, PRED, LONG % 100),
        (L1, PRED, LONG * 99),
    ],
    "nothing": [(L1, PRED[:0], PRED[:0]), (L1, PRED[:0], PRED[:0])],
    "bare arrays": [(L1, np.array(2.0), np.array(1.0)), (L1, np.array(3.0), np.array(1.0))],
    "arrays in a config": [
        ({"type": "CrossEntropyLoss", "class_weight": one}, PRED, LONG[:3])
        for one in (PRED[0], PRED[1], PRED[1].astype(np.float64), b"abcd")[:3]
    ],
    "a config like its bytes": [
        ({"type": "L1Loss", "x": "a"}, PRED, PRED),
        ({"type": "L1Loss", "x": "b"}, PRED, PRED),
    ],
}


@pytest.mark.parametrize(
    "terms", [USUAL, Terms(wire_dtype="bfloat16")], ids=["as it is", "bfloat16"]
)
@pytest.mark.parametrize("calls", FOLLOWING.values(), ids=FOLLOWING)
def test_each_call_is_written_as_by_itself(calls, terms):
    """Whichever was before it."""
    calls = [one for one in calls for _ in range(2)]
    found = call_messages(iter(calls), terms)

    for ours, call in zip(found, calls, strict=True):
        given = call if isinstance(call, dict) else dict(zip(NAMES, call, strict=False))
        alone = call_message(**given, terms=terms)
        assert ours.header == alone.header
        assert list(map(bytes, ours.payloads)) == list(map(bytes, alone.payloads))


NAMES = ("cfg", "pred", "target", "weight", "avg_factor")


def test_a_config_that_changes_between_calls_is_seen():
    """It may be one dict, of a generator that writes to it."""

    def calls():
        config = {"type": "SmoothL1Loss"}
        for beta in (1.0, 2.0):
            config["beta"] = beta
            yield config, PRED, PRED

    found = call_messages(calls(), USUAL)
    each = [call_message({"type": "SmoothL1Loss", "beta": beta}, PRED, PRED) for beta in (1.0, 2.0)]

    assert [one.header for one in found] == [one.header for one in each]
    assert found[0].header != found[1].header


def test_what_cannot_travel_is_refused_wherever_it_stands():
    """By the error of that call alone."""
    with pytest.raises(SpecError, match="config"):
        call_messages([(L1, PRED, PRED), ({"type": "L1Loss", "x": object()}, PRED, PRED)], USUAL)
