"""lossclient.microbatch: the same gradients as the plain loop, in less time."""

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

from lossclient.microbatch import pipelined
from losswire.errors import RequestError

#: Seconds that nobody waits unless something is broken.
PATIENCE = 60


def batches_of(count: int, **more: Any) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Microbatches of 8 features and 5 classes."""
    made = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(6, 8, generator=made),
            {"target": torch.randint(5, (6,), generator=made), **more},
        )
        for _ in range(count)
    ]


def model_of() -> nn.Module:
    """A model with a layer that remembers, and one that draws."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 5))


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """Those of a model's parameters."""
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]


def by_plain_loop(criterion: Any, model: nn.Module, batches: Any) -> list[torch.Tensor]:
    """The losses, by what `pipelined` stands for."""
    torch.manual_seed(2)
    losses = []
    for given, call in batches:
        loss = criterion(model(given), **call)
        loss.backward()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_it_gives_what_the_plain_loop_gives(remote, ahead):
    """Losses, gradients and the model's buffers, to the bit."""
    batches, plain = batches_of(5, avg_factor=3.0), model_of()
    ours = copy.deepcopy(plain)
    expected = by_plain_loop(remote(type="CrossEntropyLoss"), plain, batches)
    torch.manual_seed(2)
    losses = pipelined(remote(type="CrossEntropyLoss"), ours, batches, ahead=ahead)

    assert losses == expected
    assert all(map(torch.equal, gradients(ours), gradients(plain)))
    assert all(map(torch.equal, ours.buffers(), plain.buffers()))


def test_a_loss_that_remembers_sees_the_microbatches_in_order(remote):
    """Its state after them is that of the plain loop."""
    config = {"type": "GHMC", "bins": 5, "momentum": 0.7}
    batches = [
        (given, {"target": torch.ones(6, 5), "weight": torch.ones(6, 5)})
        for given, _ in batches_of(4)
    ]
    plain, ours = remote(**config), remote(**config)
    model = model_of()
    expected = by_plain_loop(plain, copy.deepcopy(model), batches)
    torch.manual_seed(2)
    losses = pipelined(ours, model, batches, ahead=3)

    assert losses == expected
    assert plain.state_dict().keys() == ours.state_dict().keys()
    assert all(
        torch.equal(ours.state_dict()[name], kept) for name, kept in plain.state_dict().items()
    )


def test_the_next_forward_pass_does_not_wait_for_a_loss():
    """A loss may take until the next microbatch has gone through the model."""
    passes = [threading.Event() for _ in range(3)]
    following = iter(passes)
    after = iter([*passes[1:], passes[-1]])

    def model(given: torch.Tensor) -> torch.Tensor:
        next(following).set()
        return given * 2

    def criterion(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert next(after).wait(PATIENCE)
        return ((pred - target) ** 2).sum()

    given = torch.ones(3, requires_grad=True)
    losses = pipelined(criterion, model, [(given, {"target": torch.zeros(3)})] * 3)

    assert losses == [12, 12, 12]
    assert torch.equal(given.grad, torch.full((3,), 24.0))


def test_the_objective_scales_gradients_and_not_losses(remote):
    """As a GradScaler and a division by the number of microbatches do."""
    batches, model = batches_of(2), model_of().eval()
    twice = copy.deepcopy(model)
    plain = pipelined(remote(type="CrossEntropyLoss"), model, batches)
    scaled = pipelined(
        remote(type="CrossEntropyLoss"), twice, batches, objective=lambda loss: loss * 4
    )

    assert plain == scaled
    for one, four in zip(gradients(model), gradients(twice), strict=True):
        assert torch.equal(4 * one, four)


def test_inputs_besides_pred_get_gradients_too(remote):
    """What the model or the trainer made of weight is learned from, as in the plain loop."""
    weight = torch.ones(6, requires_grad=True)
    pipelined(remote(type="CrossEntropyLoss"), model_of(), batches_of(2, weight=weight))

    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_without_gradients_there_are_losses_alone(remote):
    """Under no_grad nothing goes backward, in the other thread neither."""
    model = model_of()
    with torch.no_grad():
        losses = pipelined(remote(type="CrossEntropyLoss"), model, batches_of(2))

    assert len(losses) == 2
    assert not gradients(model)


def test_an_error_of_a_call_is_raised_and_nothing_hangs(remote):
    """The second microbatch is refused: the first one's gradients are there, no thread is left."""
    first, second, third = batches_of(3)
    model = model_of()
    with pytest.raises(RequestError, match="target"):
        pipelined(
            remote(type="CrossEntropyLoss"),
            model,
            [first, (second[0], {"target": torch.full((6,), 99)}), third],
        )

    assert gradients(model)
    assert not [one for one in threading.enumerate() if "microbatch" in one.name]


def test_ahead_is_one_at_least():
    """Nothing is pipelined otherwise."""
    with pytest.raises(ValueError, match="at least 1; given 0"):
        pipelined(torch.sum, torch.sin, [], ahead=0)
