"""Distillation, where a token cannot happen or only the top ones were sent."""

import math

import pytest
import torch

from losswire.errors import SpecError, TensorError
from tests.losses.calls import answer, assert_all_close, floats

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


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize(
    "name", ["ForwardKLLoss", "ReverseKLLoss", "JSDLoss", "TopKKLLoss", "rest"]
)
def test_what_is_nearly_the_same_keeps_its_divergence(name, scale):
    """In float32 no divergence is below 0, and that of a student near its teacher is no noise."""
    generator = torch.Generator().manual_seed(1)
    teacher, noise = (torch.randn(50, 40, generator=generator) for _ in range(2))
    target = teacher.log_softmax(-1)
    if name in ("TopKKLLoss", "rest"):
        target = top_of(target, 12)
    config = REST if name == "rest" else {"type": name}
    sent = {"pred": teacher + scale * noise, "target": target}
    options = {"reduction_override": "none", "wrt": ("pred",)}
    narrow = answer(config, sent, **options)
    wide = answer(config, floats(sent, torch.float64), **options)

    assert narrow.loss.min() >= 0
    assert_all_close(narrow.loss.mean().double(), wide.loss.mean(), rtol=0.01, atol=0)
    assert_all_close(narrow.grad.double(), wide.grad, rtol=1e-4, atol=1e-6)


def test_what_the_student_rules_out_besides_the_top():
    """Where the others are impossible for both, the gradient is Q - P, and not NaN."""
    pred = torch.tensor([[0.0, 1, -INF, -INF]])
    p = torch.tensor([[0.5, 0.5]])
    target = {"indices": torch.tensor([[0, 1]]), "logprobs": p.log()}
    result = answer(REST, {"pred": pred, "target": target})

    assert_all_close(result.grad, pred.softmax(-1) - torch.tensor([[0.5, 0.5, 0, 0]]))


def test_a_teacher_that_is_sure_of_another():
    """A top K of no probability at all leaves all to the rest; its gradient is finite."""
    logprobs = torch.full((1, 2), -INF)
    target = {"indices": torch.tensor([[0, 1]]), "logprobs": logprobs}
    result = answer(
        REST, {"pred": torch.tensor([[0.0, 1, 2]]), "target": target}, wrt=("pred", "target")
    )

    assert result.loss.isfinite()
    assert result.grad.isfinite().all()
    assert result.grads["target"]["logprobs"].isfinite().all()


def test_more_than_all_probability_is_refused():
    """A top K that adds up to over 1, but for rounding, is of no distribution."""
    target = {"indices": torch.tensor([[0, 1]]), "logprobs": torch.tensor([[0.5, 0.505]]).log()}
    inputs = {"pred": torch.zeros(1, 3), "target": target}

    assert answer(REST, inputs).loss.isfinite()
    target["logprobs"] = torch.tensor([[0.8, 0.3]]).log()
    assert answer(TOP, inputs).loss.isfinite()
    with pytest.raises(TensorError, match=r"target\.logprobs: must make probabilities of at most"):
        answer(REST, inputs)


@pytest.mark.parametrize("config", [TOP, REST], ids=str)
def test_padding_needs_no_top(config):
    """Outside the mask a top K may hold anything: neither the loss nor a gradient knows of it."""
    pred, teacher = torch.randn(1, 3, 5), torch.randn(1, 3, 5).log_softmax(-1)
    target = top_of(teacher, 2)
    whole = answer(config, {"pred": pred[:, :2], "target": top_of(teacher[:, :2], 2)})
    target["indices"][:, 2], target["logprobs"][:, 2], pred[:, 2] = -1, 3.0, torch.nan
    inputs = {"pred": pred, "target": target, "mask": torch.tensor([[1, 1, 0]])}
    result = answer(config, inputs, wrt=("pred", "target"))

    assert_all_close(result.loss, whole.loss)
    assert_all_close(result.grad[:, :2], whole.grad)
    assert not result.grad[:, 2].any()
    assert not result.grads["target"]["logprobs"][:, 2].any()


def test_the_ends_of_jsd_are_losses_of_their_own():
    """At 0 and 1 the divergence is 0; the refusal names the losses that were meant."""
    for beta, name in ((0, "ForwardKLLoss"), (1, "ReverseKLLoss")):
        with pytest.raises(SpecError, match=f"beta: .*for {beta} take {name}"):
            answer(
                {"type": "JSDLoss", "beta": beta},
                {"pred": torch.zeros(1, 2), "target": torch.zeros(1, 2)},
            )


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
