"""lossclient.torch: losses of several parts."""

import pytest
import torch
import torch.nn.functional as F

import lossclient
from tests.client.recording import SEESAW, logits, seesaw_inputs


def test_parts_come_by_name_and_each_has_its_own_gradient(remote):
    """Parts that are weighed differently in the trainer get the gradients of those weights."""
    pred, target = logits(6, 4), logits(6, 4, seed=1).detach()
    parts = {"l1": {"type": "L1Loss"}, "mse": {"type": "MSELoss"}}
    losses = remote(type="Sum", parts=parts)(pred, target)
    (2 * losses["l1"] + 3 * losses["mse"]).backward()
    local = pred.detach().clone().requires_grad_()
    (2 * F.l1_loss(local, target) + 3 * F.mse_loss(local, target)).backward()

    assert list(losses) == ["l1", "mse"]
    torch.testing.assert_close(pred.grad, local.grad)


def test_parts_that_are_simply_added_need_one_call(remote, client, monkeypatch):
    """sum(losses.values()).backward() does not ask the server again, however it is scaled."""
    sent = []
    send = client.send
    monkeypatch.setattr(client, "send", lambda *given: sent.append(1) or send(*given))
    losses = remote(**SEESAW)(*seesaw_inputs())
    (sum(losses.values()) * 1024).backward()

    assert len(sent) == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [({"cls": None}, "avg_factor.cls"), (torch.ones(2), "avg_factor"), ("two", "avg_factor")],
)
def test_an_avg_factor_that_is_no_number(remote, given, field):
    """It is named before anything is sent."""
    parts = {"cls": {"type": "L1Loss"}}
    with pytest.raises(lossclient.SpecError, match=f"^{field}: must be a number"):
        remote(type="Sum", parts=parts)(logits(2, 2), torch.zeros(2, 2), avg_factor=given)


def test_a_metric_has_no_gradient(remote):
    """Accuracy beside a loss takes no part in backward, and costs no second call."""
    parts = {"ce": {"type": "CrossEntropyLoss"}, "acc": {"type": "Accuracy"}}
    pred, labels = logits(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    losses = remote(type="Sum", parts=parts)(pred, labels)
    losses["ce"].backward()

    assert not losses["acc.top1"].requires_grad
    assert pred.grad.any()
