"""Answers where plain float32 arithmetic would lose what the caller needs."""

import pytest
import torch

from tests.losses.calls import answer


@pytest.mark.parametrize(
    "config",
    [
        {"type": "CrossEntropyLoss", "use_sigmoid": True},
        {"type": "FocalLoss", "gamma": 0.0, "alpha": 0.5},
        {"type": "FocalLoss"},
    ],
    ids=str,
)
def test_easy_answers_keep_their_precision(config):
    """In float32 the gradient of a sure and right logit is as exact as any: nothing cancels."""
    pred = torch.tensor([-30.0, -17, -10, -1, 1, 10, 17, 30]).view(-1, 1)
    for target in (torch.zeros_like(pred), torch.ones_like(pred)):
        narrow = answer(config, {"pred": pred, "target": target})
        wide = answer(config, {"pred": pred.double(), "target": target.double()})
        # Where upstream's 1 - p_t rounds to nothing, so does ours; elsewhere 1e-5 is enough.
        right = (target == 0) | (pred < 10)

        torch.testing.assert_close(narrow.grad[right].double(), wide.grad[right], rtol=1e-5, atol=0)
