"""Distillation, where a token cannot happen or only the top ones were sent."""

import math

import pytest
import torch

from losswire.errors import SpecError, TensorError
from tests.losses.calls import answer, assert_all_close

INF = float("inf")
TOP = {"type": "TopKKLLoss"}
REST = TOP | {"tail": "rest"}


def top_of(teacher, k, name="logprobs"):
    """What a trainer sends of a teacher's log probabilities."""
    values, indices = teacher.topk(k, -1)
    return {"indices": indices, name: values}


@pytest.mark.parametrize("name", ["ForwardKLLoss", "ReverseKLLoss", "JSDLoss"])
def test_what_neither_can_say_is_left_out(name):
    """A token ruled out for both, by logits of -inf, changes nothing and has gradient 0."""
    pred, target = torch.randn(3, 4), torch.randn(3, 4)
    both = ("pred", "target")
    without = answer({"type": name}, {"pred": pred, "target": target}, wrt=both)
    pad = torch.full((3, 1), -INF)
    padded = {"pred": torch.cat([pred, pad], 1), "target": torch.cat([target, pad], 1)}
    result = answer({"type": name}, padded, wrt=both)

    assert_all_close(result.loss, without.loss)
    for one in both:
        assert_all_close(result.grads[one][:, :4], without.grads[one])
        assert not result.grads[one][:, 4].any()


@pytest.mark.parametrize("name", ["ForwardKLLoss", "JSDLoss"])
def test_what_the_teacher_cannot_say_is_finite(name):
    """A token that the teacher rules out and the student does not costs a finite amount."""
    pred, target = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -INF]])
    result = answer({"type": name}, {"pred": pred, "target": target}, wrt=("pred", "target"))

    assert result.loss.isfinite()
    assert result.grad.isfinite().all()
    assert result.grads["target"].isfinite().all()


def test_reverse_is_infinite_where_the_student_says_what_cannot_be():
    """KL(Q ‖ P) has no bound where P is 0 and Q is not."""
    inputs = {"pred": torch.zeros(1, 3), "target": torch.tensor([[0.0, 0.0, -INF]])}

    assert answer({"type": "ReverseKLLoss"}, inputs).loss == INF


@pytest.mark.parametrize(("beta", "limit"), [(1e-7, "ForwardKLLoss"), (1 - 1e-7, "ReverseKLLoss")])
def test_jsd_tends_to_both_divergences(beta, limit):
    """Over the smaller share, the generalised divergence tends to the forward and the reverse one."""
    generator = torch.Generator().manual_seed(1)
    inputs = {
        name: torch.randn(4, 5, generator=generator, dtype=torch.float64)
        for name in ("pred", "target")
    }
    found = answer({"type": "JSDLoss", "beta": beta}, inputs).loss / min(beta, 1 - beta)

    assert_all_close(found, answer({"type": limit}, inputs).loss, rtol=1e-5, atol=0)


def test_jsd_is_at_most_log_2():
    """Two distributions that have nothing in common are log 2 apart."""
    inputs = {"pred": torch.tensor([[200.0, 0]]), "target": torch.tensor([[0, 200.0]])}

    assert_all_close(answer({"type": "JSDLoss"}, inputs).loss, torch.tensor(math.log(2)))


@pytest.mark.parametrize("config", [TOP, REST], ids=str)
def test_all_tokens_are_the_whole_divergence(config):
    """Where the top K are all there are, either tail gives the forward divergence."""
    pred, target = torch.randn(3, 5), torch.randn(3, 5)
    whole = answer({"type": "ForwardKLLoss"}, {"pred": pred, "target": target})
    top = answer(config, {"pred": pred, "target": top_of(target.log_softmax(-1), 5)})

    assert_all_close(top.loss, whole.loss)
    assert_all_close(top.grad, whole.grad)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_the_rest_survives_rounding(scale):
    """Where the top K have all that float32 can tell from 1, loss and gradients are finite."""
    pred, teacher = torch.randn(8, 50), scale * torch.randn(8, 50)
    inputs = {"pred": pred, "target": top_of(teacher.log_softmax(-1), 4)}
    result = answer(REST, inputs, wrt=("pred", "target"))

    assert result.loss.isfinite()
    assert result.grad.isfinite().all()
    assert result.grads["target"]["logprobs"].isfinite().all()


@pytest.mark.parametrize(
    ("config", "target", "message"),
    [
        (
            REST,
            {"indices": [[0, 1]], "logits": [[0.0, -1]]},
            "target: must have indices and logprobs",
        ),
        (TOP, {"indices": [[0, 1]]}, "target: must have indices and logits or logprobs"),
        (TOP, {"indices": [[2, 2]], "logits": [[0.0, -1]]}, "target.indices: must be distinct"),
        (TOP, {"indices": [[0, 3]], "logits": [[0.0, -1]]}, r"in 0\.\.2"),
        (TOP, {"indices": [[0, 1]], "logprobs": [[0.1, -1]]}, "target.logprobs: must be at most 0"),
        (TOP, {"indices": [[0, 1]], "logits": [[0.0]]}, "target.logits: must be shaped like"),
    ],
)
def test_a_top_that_cannot_be_one_is_refused(config, target, message):
    """Each way to send a wrong top is refused by its name."""
    sent = {name: torch.tensor(value) for name, value in target.items()}
    with pytest.raises(TensorError, match=message):
        answer(config, {"pred": torch.zeros(1, 3), "target": sent})


def test_the_rest_is_not_known_at_another_temperature():
    """How much the other tokens have at T = 2 does not follow from the top K."""
    target = {"indices": torch.tensor([[0, 1]]), "logprobs": torch.tensor([[-0.5, -1.0]])}
    with pytest.raises(SpecError, match="temperature: must be 1"):
        answer(REST | {"temperature": 2}, {"pred": torch.zeros(1, 3), "target": target})
