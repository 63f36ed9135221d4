"""Losses of embeddings, where vectors vanish, are alone, or are too many."""

import pytest
import torch

from lossserver.losses.loss import MAX_PAIRS
from lossserver.tree import map_tensors
from losswire.errors import TensorError
from tests.losses.calls import answer, assert_all_close

OF_VIEWS = ["InfoNCELoss", "NTXentLoss", "SigLIPLoss"]
OF_LABELS = ["SupConLoss", "CircleLoss"]
ANGULAR = ["ArcFaceLoss", "CosFaceLoss"]


def inputs_of(name, pred):
    """Inputs for the loss of that name, whose vectors these are."""
    target = pred.flip(0) if name in OF_VIEWS else torch.arange(len(pred)) % 2
    centers = {"centers": torch.tensor([[2.0, 0, 0], [0, 0, 3]])} if name in ANGULAR else {}
    return {"pred": pred, "target": target} | centers


@pytest.mark.parametrize("name", OF_VIEWS + OF_LABELS + ANGULAR)
def test_a_vector_of_zeros_has_a_finite_gradient(name):
    """A vector without direction is compared as it is; nothing becomes NaN."""
    pred = torch.tensor([[1.0, 2, 0], [0, 0, 0], [0, -1, 1], [3, 0, 1]])
    result = answer({"type": name}, inputs_of(name, pred))

    assert result.loss.isfinite()
    assert result.grad.isfinite().all()


@pytest.mark.parametrize("name", OF_LABELS + ANGULAR)
def test_a_vector_on_its_fellow_has_a_finite_gradient(name):
    """An angle of 0, where the slope of a cosine's angle is infinite, is harmless in float32."""
    pred = torch.tensor([[2.0, 0, 0], [0, 0, 3], [2, 0, 0], [0, 0, 3]])
    result = answer({"type": name}, inputs_of(name, pred), reduction_override="none")

    assert result.loss.isfinite().all()
    assert result.grad.isfinite().all()


@pytest.mark.parametrize("name", ["InfoNCELoss", "NTXentLoss", *ANGULAR])
def test_a_sure_answer_keeps_its_precision(name):
    """In float32 the loss and gradient of an answer all but certain do not cancel to nothing."""
    pred = torch.tensor([[9.0, 1, 0], [0, -1, 9], [8, 0, 1], [1, 0, 9]])
    inputs = inputs_of(name, pred)
    if name in OF_VIEWS:
        inputs = {"pred": pred[:2], "target": pred[2:]}
    config = {"type": name} | ({"temperature": 0.03} if name in OF_VIEWS else {})
    narrow = answer(config, inputs)
    wide = answer(config, map_tensors(lambda x: x.double() if x.is_floating_point() else x, inputs))

    assert 0 < wide.loss < 1e-6
    assert_all_close(narrow.loss.double(), wide.loss.double(), rtol=1e-4, atol=0)
    assert_all_close(narrow.grad.double(), wide.grad, rtol=1e-3, atol=1e-4 * float(wide.grad.max()))


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize("labels", [[4], [4, 5, 6]])
def test_a_vector_without_positives_has_no_loss(name, labels):
    """Where no other vector is of its class, loss and gradient are 0, even if it is alone."""
    inputs = {"pred": torch.randn(len(labels), 3), "target": torch.tensor(labels)}
    result = answer({"type": name}, inputs, reduction_override="none")

    assert not result.loss.any()
    assert not result.grad.any()


@pytest.mark.parametrize("name", ["InfoNCELoss", "NTXentLoss"])
def test_a_pair_alone_has_no_loss(name):
    """Where there is nothing to confuse it with, a pair has loss and gradient 0."""
    inputs = {"pred": torch.tensor([[1.0, 2]]), "target": torch.tensor([[-1.0, 2]])}
    result = answer({"type": name}, inputs)

    assert not result.loss
    assert not result.grad.any()


@pytest.mark.parametrize("name", OF_VIEWS + OF_LABELS)
def test_too_many_pairs_are_refused(name):
    """Vectors of one number cost a few bytes to send, and must not cost a square of memory."""
    rows = int(MAX_PAIRS**0.5) + 1
    pred = torch.zeros(rows, 1)
    target = pred if name in OF_VIEWS else torch.zeros(rows, dtype=torch.int64)
    with pytest.raises(TensorError, match="pairs of"):
        answer({"type": name}, {"pred": pred, "target": target})


@pytest.mark.parametrize("name", OF_VIEWS + OF_LABELS + ANGULAR)
def test_a_weight_is_a_number_a_row(name):
    """A column of weights is refused: with a row of losses it would make a square."""
    inputs = inputs_of(name, torch.randn(4, 3))
    with pytest.raises(TensorError, match="weight: must not broadcast the loss"):
        answer({"type": name}, inputs | {"weight": torch.ones(4, 1)})


def test_negatives_are_needed_where_nothing_else_is_negative():
    """Without the batch's own negatives, and without any sent, there is nothing to compare with."""
    inputs = inputs_of("InfoNCELoss", torch.randn(4, 3))
    with pytest.raises(TensorError, match="negatives: must be sent"):
        answer({"type": "InfoNCELoss", "in_batch": False}, inputs)
    with pytest.raises(TensorError, match="negatives: go without symmetric"):
        answer(
            {"type": "InfoNCELoss", "symmetric": True}, inputs | {"negatives": torch.randn(2, 3)}
        )


def test_a_learned_scale_is_in_place_of_the_temperature():
    """The scale that CLIP learns is one over a temperature, and has a gradient of its own."""
    inputs = inputs_of("InfoNCELoss", torch.randn(4, 3, dtype=torch.float64))
    fixed = answer({"type": "InfoNCELoss", "temperature": 0.25}, inputs)
    scale = {"logit_scale": torch.tensor(4.0, dtype=torch.float64)}
    learned = answer({"type": "InfoNCELoss"}, inputs | scale, wrt=("pred", "logit_scale"))

    assert_all_close(learned.loss, fixed.loss)
    assert_all_close(learned.grad, fixed.grad)
    assert learned.grads["logit_scale"].shape == ()


def test_cosines_are_refused_where_they_are_none():
    """Without centres the scores must be cosines; a scaled one would be a silent error."""
    inputs = {"pred": torch.tensor([[0.3, 12.0]]), "target": torch.tensor([1])}
    with pytest.raises(TensorError, match="without centers must be cosines"):
        answer({"type": "ArcFaceLoss"}, inputs)


@pytest.mark.parametrize("name", ["BarlowTwinsLoss", "VICRegLoss"])
def test_statistics_need_rows(name):
    """One row has no variance, and a matrix of all columns must be affordable."""
    for shape, rule in (((1, 3), "at least 2 rows"), ((2, 8193), "1 to 8192 columns")):
        pred = torch.zeros(shape)
        with pytest.raises(TensorError, match=rule):
            answer({"type": name}, {"pred": pred, "target": pred})


@pytest.mark.parametrize("name", ["BarlowTwinsLoss", "VICRegLoss"])
def test_a_collapsed_view_has_a_finite_gradient(name):
    """Rows that are all the same, of variance 0, give finite gradients."""
    pred = torch.ones(5, 3)
    result = answer({"type": name}, {"pred": pred, "target": torch.randn(5, 3)})

    assert result.grad.isfinite().all()
