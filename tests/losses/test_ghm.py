"""What the gradient harmonised losses remember, count and refuse."""

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close, unreduced
from tests.losses.cases.ghm import CASES

every_harmonised = pytest.mark.parametrize("case", CASES, ids=str)
MEAN = {"reduction_override": "mean"}


def test_counts_are_a_moving_average():
    """A bin that is empty keeps its average, a filled one moves towards its count."""
    config = {"type": "GHMR", "bins": 2, "mu": 1.0, "momentum": 0.75}
    near, far = torch.full((4, 1), 0.1), torch.full((2, 1), 9.0)
    state, seen = None, []
    for pred in (near, far, torch.cat([near, far])):
        inputs = {"pred": pred, "target": torch.zeros_like(pred), "weight": torch.ones_like(pred)}
        state = answer(config, inputs, state=state).state
        seen.append(state["acc_sum"].tolist())

    assert seen == [[1.0, 0.0], [1.0, 0.5], [1.75, 0.875]]


@every_harmonised
def test_it_remembers_with_a_momentum_alone(case):
    """Without one no state comes back, and one that is sent is refused."""
    state = unreduced(case, case.inputs(4)).state
    if case.config.get("momentum"):
        assert state["acc_sum"].dtype is torch.float32
        return

    assert state is None
    with pytest.raises(losswire.errors.RequestError, match="does not remember"):
        unreduced(case, case.inputs(4), state={"acc_sum": torch.zeros(10)})


@every_harmonised
def test_a_nan_is_not_lost(case):
    """A NaN belongs to no bin, but where it counts the loss is NaN, and where it does not 0."""
    inputs = case.inputs(6)
    inputs["pred"][2] = torch.nan
    rows = unreduced(case, inputs, wrt=()).loss
    counts = inputs["weight"] > 0
    counts = (counts if counts.dim() == 2 else counts[:, None]).expand_as(rows)

    assert torch.equal(rows.isnan(), counts & inputs["pred"].isnan())


def test_a_state_of_nan_is_not_lost():
    """A trainer whose state is spoilt is told so by its loss."""
    inputs = {"pred": torch.zeros(3, 4), "target": torch.zeros(3, 4), "weight": torch.ones(3, 4)}
    state = {"acc_sum": torch.full((10,), torch.nan)}

    assert answer({"type": "GHMC", "momentum": 0.5}, inputs, state=state).loss.isnan()


@every_harmonised
def test_the_mean_is_its_own(case):
    """A caller's avg_factor has no effect, and a sum, which upstream never gives, is refused."""
    inputs = case.inputs(4)
    ours = answer(case.config, inputs, avg_factor=3.0)

    assert_all_close(ours.loss, answer(case.config, inputs).loss)
    with pytest.raises(losswire.errors.RequestError, match='reduction_override: must be "mean"'):
        answer(case.config, inputs, reduction_override="sum")
    with pytest.raises(losswire.errors.RequestError, match=r"config\.reduction: must be"):
        answer(case.config | {"reduction": "sum"}, inputs)
    assert_all_close(
        answer(case.config | {"reduction": "sum"}, inputs, **MEAN).loss,
        answer(case.config, inputs).loss,
    )


@pytest.mark.parametrize(
    ("field", "given"),
    [("bins", 0), ("bins", 10**12), ("momentum", 1.0), ("momentum", float("nan")), ("mu", -1.0)],
)
def test_parameters_out_of_range(field, given):
    """A histogram that is empty or far larger than any call is refused before it is made."""
    inputs = {name: torch.zeros(1, 4) for name in ("pred", "target", "weight")}
    with pytest.raises(losswire.errors.RequestError, match=f"config.{field}: must be"):
        answer({"type": "GHMR", field: given}, inputs)


def test_small_differences_keep_their_precision():
    """In float32 a difference far below mu has an exact loss: the square root's μ does not cancel."""
    pred = torch.tensor([[1e-8, 1e-5, 1e-3, 1.0]])
    config = {"type": "GHMR", "bins": 1, "reduction": "none"}
    inputs = {"pred": pred, "target": torch.zeros(1, 4), "weight": torch.ones(1, 4)}
    wide = {name: tensor.double() for name, tensor in inputs.items()}

    assert_all_close(
        answer(config, inputs).loss.double(), answer(config, wide).loss, rtol=1e-6, atol=0
    )
