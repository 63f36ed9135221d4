"""L2Loss and MarginL2Loss: who is mined, and what divides."""

import pytest
import torch

from losswire.errors import RequestError
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases.margin import similarities, weighted

every_name = pytest.mark.parametrize("name", ["L2Loss", "MarginL2Loss"])


def kept(name, seed):
    """Which elements count when as many negatives as positives do."""
    config = {"type": name, "neg_pos_ub": 1, "reduction": "none"}
    inputs = similarities(20) if seed is None else similarities(20) | {"seed": seed}
    return answer(config, inputs).grad != 0


@every_name
def test_random_negatives_follow_from_the_seed(name):
    """The same seed keeps the same negatives, another one others, and 0 is the default."""
    assert torch.equal(kept(name, 5), kept(name, 5))
    assert torch.equal(kept(name, None), kept(name, 0))
    assert not torch.equal(kept(name, 5), kept(name, 6))
    assert int(kept(name, 5)[1:].sum()) == 3  # the first row has the three positives


@pytest.mark.parametrize("seed", [-1, 1 << 32, 0.5, True, "five", torch.tensor(5)], ids=str)
@every_name
def test_a_seed_out_of_range_is_refused(name, seed):
    """A seed is what NumPy's generator takes."""
    with pytest.raises(RequestError, match="seed: must be a whole number"):
        answer({"type": name}, similarities(2) | {"seed": seed})


@pytest.mark.parametrize("where", ["config", "call"])
@every_name
def test_a_sum_is_refused(name, where):
    """The divisor is given by the weights, and upstream divides no sum."""
    config = {"type": name, "reduction": "sum" if where == "config" else "mean"}
    options = {} if where == "config" else {"reduction_override": "sum"}
    with pytest.raises(RequestError, match="must be mean or none"):
        answer(config, similarities(2), **options)


@every_name
def test_a_mean_divides_by_the_weights_above_zero(name):
    """The divisor is their count, rounded to float32 as upstream; the caller's is ignored."""
    inputs = weighted(5)
    rows = answer({"type": name, "reduction": "none"}, inputs).loss
    mean = answer({"type": name}, inputs, avg_factor=77.0)

    assert_all_close(mean.loss, rows.sum() / int((inputs["weight"] > 0).sum()), rtol=1e-14, atol=0)


@every_name
def test_without_positives_a_bound_leaves_nothing(name):
    """Any bound times no positives is no negatives: the loss is 0, not an error."""
    inputs = similarities(4)
    inputs["target"] = torch.zeros_like(inputs["target"])
    for hard in (False, True):
        config = {"type": name, "neg_pos_ub": 2, "hard_mining": hard}

        assert float(answer(config, inputs).loss) == 0


@every_name
def test_inputs_are_not_written_to(name):
    """Upstream changes target, pred and weight in place; here they stay as they were sent."""
    inputs = weighted(5)
    before = {key: value.clone() for key, value in inputs.items()}
    config = {"type": name, "pos_margin": 0.1, "neg_margin": 0.1, "neg_pos_ub": 1}
    result = answer(config, inputs, wrt=("pred", "weight"))

    assert all(torch.equal(inputs[key], before[key]) for key in before)
    assert result.grads["weight"].shape == inputs["weight"].shape
