"""lossclient.torch: a remote loss behaves in a PyTorch training loop as a local one does."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossclient
from lossclient.torch import RemoteLoss
from tests.client.recording import Recording, logits

EPS = torch.finfo(torch.float32).eps


def test_a_loss_has_a_grad_fn_and_a_gradient(remote):
    """backward() puts into .grad what the local loss would have put there."""
    pred, target = logits(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = remote(type="CrossEntropyLoss")(pred, target)
    loss.backward()
    local = pred.detach().clone().requires_grad_()
    F.cross_entropy(local, target).backward()

    assert loss.grad_fn is not None
    assert loss.shape == ()
    torch.testing.assert_close(loss, F.cross_entropy(local, target))
    torch.testing.assert_close(pred.grad, local.grad)


def test_losses_are_added_and_scaled(remote):
    """loss * 3 + other: the upstream gradient reaches pred, as does the other loss's."""
    pred, target = logits(6, 4), torch.zeros(6, 4)
    (remote(type="MSELoss")(pred, target) * 3 + pred.sum()).backward()

    torch.testing.assert_close(pred.grad, 3 * 2 * pred.detach() / 24 + 1)


def test_an_unreduced_loss_takes_any_upstream_gradient(remote):
    """reduction='none' and weights of one's own give each row its own gradient."""
    pred, target = logits(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    weights = torch.arange(6.0)
    loss = remote(type="CrossEntropyLoss", reduction="none")(pred, target)
    (loss * weights).sum().backward()
    local = pred.detach().clone().requires_grad_()
    (F.cross_entropy(local, target, reduction="none") * weights).sum().backward()

    assert loss.shape == (6,)
    torch.testing.assert_close(pred.grad, local.grad)


def test_mmdets_signature(remote):
    """weight, avg_factor (a number or a tensor, as DDP's mean is) and reduction_override by position."""
    pred, target, weight = logits(6, 4), torch.zeros(6, 4), torch.rand(6, 1)
    loss = remote(type="L1Loss")(pred, target, weight, torch.tensor(2.5))
    total = remote(type="L1Loss")(pred, target, weight, None, "sum")

    expected = (pred.abs() * weight).sum()
    torch.testing.assert_close(loss, expected / (2.5 + EPS))
    torch.testing.assert_close(total, expected)


def test_every_differentiable_input_gets_its_gradient(remote):
    """target and weight too, where they require one; labels never."""
    pred, target, weight = logits(5, 4), logits(5, 4, seed=1), logits(5, 4, seed=2)
    remote(type="MSELoss", reduction="sum")(pred, target, weight).backward()
    difference = (pred - target).detach()

    torch.testing.assert_close(pred.grad, 2 * difference * weight.detach())
    torch.testing.assert_close(target.grad, -pred.grad)
    torch.testing.assert_close(weight.grad, difference.square())


def test_backward_twice_with_retain_graph(remote):
    """The graph can be kept and walked again, as any."""
    pred = logits(3, 4)
    loss = remote(type="MSELoss", reduction="sum")(pred, torch.zeros(3, 4))
    loss.backward(retain_graph=True)
    loss.backward()

    torch.testing.assert_close(pred.grad, 2 * 2 * pred.detach())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused_in_words(remote, reduction):
    """create_graph asks for what the server cannot give; the error says so at once."""
    pred = logits(3, 4)
    loss = remote(type="MSELoss", reduction=reduction)(pred, torch.zeros(3, 4)).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, pred, create_graph=True)


def test_without_grad_only_the_value_is_asked_for(client):
    """Under no_grad, and for an input that requires none, there is no graph and no gradient sent."""
    recording = Recording(client.planes)
    criterion = RemoteLoss({"type": "L1Loss"}, recording)
    pred = logits(3, 4)
    with torch.no_grad():
        assert not criterion(pred, torch.zeros(3, 4)).requires_grad
    assert not criterion(pred.detach(), torch.zeros(3, 4)).requires_grad
    assert criterion(pred, torch.zeros(3, 4)).requires_grad

    assert [list(header.wrt) for header in recording.sent] == [[], [], ["pred"]]


def test_a_bfloat16_gradient_is_rounded_once(remote):
    """Scaled by 0.1, as a loss's own weight does it, it is the float32 product, rounded."""
    pred = logits(64, 100, dtype=torch.bfloat16)
    (remote(type="MSELoss", reduction="sum")(pred, torch.zeros_like(pred)) * 0.1).backward()

    exact = 2 * pred.detach().float()
    torch.testing.assert_close(pred.grad, (exact.to(torch.bfloat16).float() * 0.1).bfloat16())


def test_a_noncontiguous_prediction(remote):
    """A head's permuted output, as every detector has, is sent as its values."""
    pred = logits(2, 4, 3)
    remote(type="L1Loss", reduction="sum")(pred.permute(0, 2, 1), torch.zeros(2, 3, 4)).backward()

    torch.testing.assert_close(pred.grad, torch.sign(pred.detach()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_scaled_before_they_are_rounded(remote, dtype):
    """A gradient too small for a half survives when the loss was scaled, as GradScaler does it."""
    pred = logits(64, 1000, dtype=dtype)
    target = torch.zeros(64, 1000, dtype=dtype)
    loss = remote(type="L1Loss", loss_weight=1e-4)(pred, target)
    (loss * 65536.0).backward()

    assert loss.dtype is torch.float32
    assert pred.grad.dtype is dtype
    expected = torch.sign(pred.detach().float()) * (1e-4 * 65536 / 64000)
    torch.testing.assert_close(pred.grad, expected.to(dtype))


def test_under_autocast_with_a_gradient_scaler(remote):
    """A whole step of mixed precision leaves the weights where the local loss leaves them."""
    inputs, target = torch.randn(8, 5), torch.randint(0, 4, (8,))
    models = [nn.Linear(5, 4)]
    models.append(copy.deepcopy(models[0]))
    for model, criterion in zip(
        models, [remote(type="CrossEntropyLoss"), nn.CrossEntropyLoss()], strict=True
    ):
        scaler = torch.amp.GradScaler("cpu")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = criterion(model(inputs), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    # bfloat16 keeps 8 bits, and the two round the gradient at different places.
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=2**-7, atol=1e-4)


def test_a_model_with_a_remote_loss_can_be_copied(remote):
    """deepcopy, as averaged models do it, and state_dict work; the copy computes."""
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "loss": remote(type="L1Loss")})
    twin = copy.deepcopy(model)

    assert list(model.state_dict()) == ["head.weight", "head.bias"]
    assert twin["loss"](torch.ones(2, 2), torch.zeros(2, 2)) == 1
    assert "L1Loss" in repr(model)


def test_inside_a_compiled_model(remote):
    """torch.compile goes round the call and compiles the rest."""
    criterion = remote(type="MSELoss", reduction="sum")
    step = torch.compile(lambda x: criterion(x * 2, torch.zeros(3, 4)), backend="eager")
    pred = logits(3, 4)
    step(pred).backward()

    torch.testing.assert_close(pred.grad, 8 * pred.detach())


def test_errors_come_out_of_forward(remote):
    """A wrong call raises where it was made, with the client's own error."""
    with pytest.raises(lossclient.TensorError, match=r"target: .* \[2, 3\]"):
        remote(type="L1Loss")(logits(2, 4), torch.zeros(2, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_in_cuda_tensors_out(remote):
    """Loss and gradient come back on the device of pred."""
    pred = torch.randn(3, 4, device="cuda", requires_grad=True)
    loss = remote(type="MSELoss")(pred, torch.zeros(3, 4, device="cuda"))
    loss.backward()

    assert loss.device == pred.grad.device == pred.device


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_nothing_is_kept_for_a_backward_that_was(remote, reduction):
    """Once backward has run, a loss that is kept, as for a log, keeps no input alive."""
    target = torch.zeros(3, 4)
    kept = weakref.ref(target)
    loss = remote(type="MSELoss", reduction=reduction)(logits(3, 4), target).sum()
    loss.backward()
    del target

    assert kept() is None
