"""Losses of a difference: where their parts meet, and what is refused."""

import pytest
import torch

from losswire.errors import RequestError
from tests.losses.calls import answer
from tests.losses.cases.regression import boxes


def test_balanced_l1_has_no_short_cut():
    """Where no weight is above 0 it is weighted like any other; only an empty target is special."""
    inputs = boxes(3)
    config = {"type": "BalancedL1Loss", "reduction": "none"}
    empty = {name: value[:0] for name, value in inputs.items()}

    assert answer(config, inputs | {"weight": torch.zeros(3, 1)}).loss.shape == (3, 4)
    assert answer(config, empty).loss.shape == ()
    assert float(answer({"type": "BalancedL1Loss"}, empty).loss) == 0


@pytest.mark.parametrize(
    "parameters",
    [{"alpha": 0.0}, {"beta": 0.0}, {"gamma": 0.0}, {"gamma": 2.0, "alpha": 0.002}],
    ids=str,
)
def test_balanced_l1_refuses_what_it_cannot_compute(parameters):
    """Parameters that divide by 0 or overflow are refused with the config."""
    with pytest.raises(RequestError, match="config"):
        answer({"type": "BalancedL1Loss"} | parameters, boxes(2))
