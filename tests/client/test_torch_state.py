"""lossclient.torch: what a loss remembers, in a checkpoint and back."""

import pytest
import torch
from torch import nn

import lossclient
from lossclient.torch import RemoteLoss
from tests.client.recording import SEESAW, Recording, logits, seesaw_inputs

GHMC = {"type": "GHMC", "momentum": 0.5}


def binary_inputs():
    return logits(4, 3), torch.tensor([0, 1, 2, 0]), torch.ones(4)


def test_what_a_loss_remembers_is_in_the_state_dict(remote):
    """Counts go on from call to call, into a checkpoint, and into a module that was not called yet."""
    criterion, fresh = remote(**SEESAW), remote(**SEESAW)
    for _ in range(2):
        criterion(*seesaw_inputs())
    fresh.load_state_dict(criterion.state_dict())

    assert criterion.state_dict()["cum_samples"].tolist() == [4, 2, 2, 4]
    torch.testing.assert_close(fresh(*seesaw_inputs()), criterion(*seesaw_inputs()))


def test_backward_does_not_count_again(remote):
    """The second call of an unreduced loss is computed from the state that the first was."""
    criterion = remote(**SEESAW, reduction="none")
    pred, target = seesaw_inputs()
    losses = criterion(pred, target)
    sum(loss.sum() for loss in losses.values()).backward()
    again, _ = seesaw_inputs()
    once = remote(**SEESAW, reduction="sum")
    sum(once(again, target).values()).backward()

    assert criterion.cum_samples.tolist() == [2, 1, 1, 2]
    torch.testing.assert_close(pred.grad, again.grad)


def test_a_part_of_a_sum_remembers(remote):
    """The state of a part has a name of its own, and survives a checkpoint."""
    config = {"type": "Sum", "parts": {"cls": SEESAW, "z": {"type": "MSELoss"}}}
    criterion, fresh = remote(**config), remote(**config)
    pred, labels = seesaw_inputs()
    criterion(pred, {"cls": labels, "z": torch.zeros(6, 5)})
    fresh.load_state_dict(criterion.state_dict())

    assert fresh.state_dict()["cls/cum_samples"].tolist() == [2, 1, 1, 2]


def test_the_second_call_is_sent_the_first_ones_state(client):
    """An unreduced loss is asked for its gradient with the state that its value was computed from."""
    recording = Recording(client.planes)
    criterion = RemoteLoss({**SEESAW, "reduction": "none"}, recording)
    for _ in range(2):
        sum(loss.sum() for loss in criterion(*seesaw_inputs()).values()).backward()

    of_forward, of_backward = recording.states[::2], recording.states[1::2]
    assert of_forward[0] is of_backward[0] is None
    assert of_forward[1]["cum_samples"].tolist() == [2, 1, 1, 2]
    assert of_backward[1]["cum_samples"].tolist() == [2, 1, 1, 2]


def test_a_first_call_in_inference_mode(remote):
    """Validation before training leaves buffers that training can move on."""
    criterion = remote(**SEESAW)
    with torch.inference_mode():
        criterion(*seesaw_inputs())
        criterion(*seesaw_inputs())
    sum(criterion(*seesaw_inputs()).values()).backward()

    assert not criterion.cum_samples.is_inference()
    assert criterion.cum_samples.tolist() == [6, 3, 3, 6]


def test_upstreams_checkpoint_is_loaded(remote, caplog):
    """MMDetection's GHMC has its edges in the checkpoint, which nobody needs; the rest goes on."""
    criterion, own = remote(**GHMC), remote(**GHMC)
    own(*binary_inputs())
    upstream = {"edges": torch.arange(11) / 10, "acc_sum": own.acc_sum.clone()}
    criterion.load_state_dict(upstream)
    own.load_state_dict(upstream)

    torch.testing.assert_close(criterion(*binary_inputs()), own(*binary_inputs()))
    assert list(criterion.state_dict()) == ["acc_sum"]
    assert not caplog.records


def test_what_is_not_remembered_is_dropped(remote, caplog):
    """Only a reply says what is no state; then it is told, and the loss works. After it, load says so."""
    criterion = remote(type="L1Loss")
    criterion.load_state_dict({"weight": torch.ones(3)})
    loss = criterion(torch.ones(2, 2), torch.zeros(2, 2))

    assert loss == 1
    assert not criterion.state_dict()
    assert "does not remember: ['weight']" in caplog.text
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight"):
        criterion.load_state_dict({"weight": torch.ones(3)})


@pytest.mark.parametrize("name", ["a.b", "cfg", "training", "forward"])
def test_a_name_that_no_state_has_is_unexpected(remote, name):
    """It is reported as PyTorch reports it, or left out if that was asked for."""
    state = {name: torch.ones(3)}
    with pytest.raises(RuntimeError, match="Unexpected key"):
        remote(**SEESAW).load_state_dict(state)

    assert remote(**SEESAW).load_state_dict(state, strict=False).unexpected_keys == [name]


def test_back_to_before_the_first_call(remote):
    """A snapshot from before training, as a learning-rate finder takes it, makes the loss forget."""
    model = nn.ModuleDict({"loss": remote(**SEESAW)})
    before = model.state_dict()
    model["loss"](*seesaw_inputs())
    after = model.state_dict()
    model.load_state_dict(before)
    forgotten = list(model.state_dict())
    model.load_state_dict(after)
    model["loss"](*seesaw_inputs())

    assert forgotten == []
    assert model["loss"].cum_samples.tolist() == [4, 2, 2, 4]


def test_a_state_that_lacks_the_loss_is_incomplete(remote):
    """Where a checkpoint knows nothing of the loss, what it remembers is missing, and kept."""
    criterion = remote(**SEESAW)
    criterion(*seesaw_inputs())

    with pytest.raises(RuntimeError, match=r"Missing key.*cum_samples"):
        criterion.load_state_dict({})
    assert criterion.cum_samples.tolist() == [2, 1, 1, 2]


def test_loaded_and_saved_without_a_call(remote):
    """A checkpoint that passes through a module that is never called is the same after it."""
    criterion, between = remote(**SEESAW), remote(**SEESAW)
    criterion(*seesaw_inputs())
    between.load_state_dict({"cum_samples": torch.zeros(4)})
    between.load_state_dict(criterion.state_dict())

    assert between.state_dict()["cum_samples"].tolist() == [2, 1, 1, 2]


def test_a_state_of_another_shape_is_named(remote):
    """What was loaded for other classes is refused by the server, at the first call."""
    criterion = remote(**SEESAW)
    criterion.load_state_dict({"cum_samples": torch.ones(9)})

    with pytest.raises(
        lossclient.TensorError, match=r"state\.cum_samples: must be a tensor of \[4\]"
    ):
        criterion(*seesaw_inputs())
