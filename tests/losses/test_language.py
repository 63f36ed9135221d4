"""Losses of tokens: masks, ignored labels, and a head whose logits are never made."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lossserver.losses import linear
from lossserver.tree import tensors
from losswire.errors import TensorError
from tests.losses.calls import answer, assert_all_close

LINEAR = {"type": "LinearCrossEntropyLoss"}
EVERYTHING = LINEAR | {"softcap": 3.0, "z_loss": 0.01, "label_smoothing": 0.1}
OF_LAYER = ("pred", "head", "bias")


def layer(tokens, width, classes, dtype=torch.float64):
    """Hidden states, labels, a head and its bias."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"pred": (tokens, width), "head": (classes, width), "bias": (classes,)}
    drawn = {k: torch.randn(x, generator=generator, dtype=dtype) for k, x in shapes.items()}
    return drawn | {"target": torch.randint(classes, (tokens,), generator=generator)}


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Look at what the operation gives."""
        out = func(*args, **kwargs or {})
        found = list(out) if isinstance(out, tuple) else out
        self.elements = max([self.elements, *(one.numel() for one in tensors(found))])
        return out


@pytest.mark.parametrize("name", ["ZLoss", "LabelSmoothingLoss", "ForwardKLLoss"])
def test_a_masked_token_is_silent(name):
    """A NaN token of weight 0 leaves the others of its sequence as they are."""
    pred = torch.randn(2, 3, 4)
    target = {"LabelSmoothingLoss": torch.ones(2, 3, dtype=torch.int64)}
    target = {} if name == "ZLoss" else {"target": target.get(name, torch.randn(2, 3, 4))}
    weight = {"weight": torch.tensor([[1.0, 0, 1], [1, 1, 1]])}
    sick = pred.clone()
    sick[0, 1] = torch.nan
    clean, found = (answer({"type": name}, {"pred": x} | target | weight) for x in (pred, sick))

    assert_all_close(found.loss, clean.loss)
    assert_all_close(found.grad, clean.grad)


@pytest.mark.parametrize("name", ["ZLoss", "ForwardKLLoss", "ReverseKLLoss", "JSDLoss"])
def test_a_mean_is_over_the_tokens_of_the_mask(name):
    """Padding to any length, with NaN even, changes neither the mean nor the gradient of the tokens."""
    names = ("pred",) if name == "ZLoss" else ("pred", "target")
    plain = {one: torch.randn(2, 3, 4, dtype=torch.float64) for one in names}
    pad = torch.full((2, 9, 4), torch.nan, dtype=torch.float64)
    padded = {one: torch.cat([given, pad], 1) for one, given in plain.items()}
    mask = torch.arange(12).expand(2, 12) < 3
    expected = answer({"type": name}, plain, wrt=names)
    found = answer({"type": name}, padded | {"mask": mask}, wrt=names)

    assert_all_close(found.loss, expected.loss, rtol=1e-15, atol=0)
    for one in names:
        assert_all_close(found.grads[one][:, :3], expected.grads[one])
        assert not found.grads[one][:, 3:].any()
    assert answer({"type": name}, padded | {"mask": torch.zeros(2, 12)}).loss == 0


def test_a_mask_is_no_weight():
    """What is neither 0 nor 1, or not a number a token, is refused as a mask."""
    pred = torch.zeros(2, 3, 4)
    for mask, said in (
        (torch.full((2, 3), 0.5), "mask: must hold 0 and 1 only; given 0.5"),
        (torch.ones(2, 1), r"mask: must be a number a token, \[2, 3\]"),
    ):
        with pytest.raises(TensorError, match=said):
            answer({"type": "ZLoss"}, {"pred": pred, "mask": mask})


@pytest.mark.parametrize("sick", [torch.nan, torch.inf, -torch.inf])
def test_an_ignored_token_may_hold_anything(sick):
    """Where the label is to be ignored, loss and gradient are 0 whatever the logits."""
    inputs = {"pred": torch.zeros(2, 3), "target": torch.tensor([-100, 1])}
    inputs["pred"][0] = sick
    result = answer({"type": "LabelSmoothingLoss"}, inputs)

    assert result.loss.isfinite()
    assert not result.grad[0].any()
    assert result.grad[1].isfinite().all()


@pytest.mark.parametrize("name", ["LabelSmoothingLoss", "LinearCrossEntropyLoss"])
def test_a_mean_over_what_is_not_ignored(name):
    """With avg_non_ignore the mean is torch's, but 0 and not NaN where all are ignored."""
    inputs = layer(5, 3, 7)
    inputs["target"][1:3] = -100
    logits = F.linear(inputs["pred"], inputs["head"], inputs["bias"])
    if name == "LabelSmoothingLoss":
        inputs = {"pred": logits, "target": inputs["target"]}
    config = {"type": name, "label_smoothing": 0.1, "avg_non_ignore": True}
    expected = F.cross_entropy(logits, inputs["target"], label_smoothing=0.1)

    assert_all_close(answer(config, inputs).loss, expected)
    inputs["target"][:] = -100
    assert answer(config, inputs).loss == 0


@pytest.mark.parametrize("config", [LINEAR, EVERYTHING], ids=str)
@pytest.mark.parametrize(("tile", "width"), [(1, 1), (6, 4), (40, 3), (64, 64)])
def test_tiles_change_nothing(monkeypatch, config, tile, width):
    """However small the tiles, the loss and all its gradients stay the same."""
    inputs = layer(9, 3, 11)
    inputs["target"][4] = -100
    upstream = torch.rand(9, dtype=torch.float64)
    options = {"wrt": OF_LAYER, "reduction_override": "none", "grad_output": upstream}
    whole = answer(config, inputs, **options)
    monkeypatch.setattr(linear, "TILE", tile)
    monkeypatch.setattr(linear, "WIDTH", width)
    tiled = answer(config, inputs, **options)

    assert_all_close(tiled.loss, whole.loss, rtol=1e-12, atol=1e-12)
    for name in OF_LAYER:
        assert_all_close(tiled.grads[name], whole.grads[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [LINEAR, EVERYTHING], ids=str)
def test_the_logits_are_never_made(config):
    """No tensor on the way, forth or back, is larger than a tile, let alone all logits."""
    inputs = layer(1024, 4, 9000, torch.float32)
    with Largest() as largest:
        answer(config, inputs, wrt=OF_LAYER)

    assert largest.elements <= linear.TILE < 1024 * 9000


@pytest.mark.parametrize("config", [LINEAR, EVERYTHING], ids=str)
def test_a_sick_token_without_weight_leaves_the_head_alone(config):
    """NaN and infinity in tokens that are ignored or weigh 0 do not reach the head's gradient."""
    inputs = layer(6, 3, 7)
    inputs["target"][1] = -100
    inputs["weight"] = torch.tensor([1.0, 1, 0, 1, 0, 1], dtype=torch.float64)
    clean = answer(config, inputs, wrt=OF_LAYER)
    sick = inputs["pred"].clone()
    sick[1:3], sick[4] = torch.nan, torch.inf
    found = answer(config, inputs | {"pred": sick}, wrt=OF_LAYER)

    assert_all_close(found.loss, clean.loss)
    assert_all_close(found.grads, clean.grads)


def test_a_thin_head_is_not_asked_for_hours():
    """Tokens times classes is bounded, though both together cost few bytes to send."""
    inputs = {
        "pred": torch.zeros(1 << 17, 1),
        "target": torch.zeros(1 << 17, dtype=torch.int64),
        "head": torch.zeros((1 << 15) + 1, 1),
    }
    with pytest.raises(TensorError, match="must not make over"):
        answer(LINEAR, inputs)


def test_logits_of_no_class_are_refused():
    """Tokens that cost no byte to send make no loss, which would cost many."""
    with pytest.raises(TensorError, match="V ≥ 1"):
        answer({"type": "ZLoss"}, {"pred": torch.zeros(10**7, 0)})
