"""Losses of embeddings where a stranger may stumble."""

import math

import pytest
import torch

import losswire.errors
from tests.losses.calls import answer, assert_all_close
from tests.losses.cases.embedding import corners, identities

MANY = {"type": "MultiPosCrossEntropyLoss", "reduction": "none"}
TRIPLET = {"type": "TripletLoss"}
CORNERS = {"type": "AssociativeEmbeddingLoss"}


def test_large_scores_keep_their_differences():
    """What is exponentiated are differences, so that float32 scores of a thousand lose nothing."""
    pred = torch.tensor([[1000.0, 1001.0], [-1e30, 1e30], [1e30, -1e30]])
    loss = answer(MANY, {"pred": pred, "target": torch.tensor([[1, 0], [0, 1], [0, 1]])}).loss

    assert_all_close(loss, torch.tensor([math.log1p(math.e), 0, 2e30]))


def test_rows_without_a_pair():
    """Without positives, or without negatives, a row is 0, and so is its gradient."""
    pred = torch.tensor([[1.0, 700.0], [-3.0, 2.0]])
    result = answer(MANY, {"pred": pred, "target": torch.tensor([[0, 0], [1, 2]])})

    assert not result.loss.any()
    assert not result.grad.any()


def test_other_numbers_are_on_both_sides():
    """As upstream a label that is neither is a positive and a negative of score 0."""
    result = answer(MANY, {"pred": torch.tensor([[2.0, 5.0]]), "target": torch.tensor([[1, -1]])})

    assert_all_close(result.loss, torch.tensor([math.log(1 + math.exp(-2) + 1)]))
    assert not result.grad[0, 1]


def test_no_memory_for_pairs():
    """A row of 100,000 scores, whose pairs would take 40 GB, is computed."""
    pred, target = torch.zeros(1, 100_000), torch.arange(100_000).view(1, -1) % 2

    assert_all_close(
        answer(MANY, {"pred": pred, "target": target}).loss,
        torch.tensor([math.log1p(2.5e9)]),
    )


def test_an_anchor_alone_in_its_class():
    """Its positive is itself, at a distance that is not rounding noise, and without a gradient."""
    pred = torch.tensor([[300.1, 0.0], [300.1, 3.0]])
    result = answer(TRIPLET | {"margin": 5.0}, {"pred": pred, "target": torch.tensor([0, 1])})

    assert_all_close(result.loss, torch.tensor(2.0))
    assert_all_close(result.grad, torch.tensor([[0.0, 1.0], [0.0, -1.0]]))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"target": torch.zeros(4, dtype=torch.int64)}, "target: must hold at least two classes"),
        ({"target": torch.zeros(4)}, "target: class indices must be of an integer type"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target: must be \[N\], here \[4\]"),
        ({"pred": torch.zeros(4)}, r"pred: must be \[N, D\]"),
        (
            {"pred": torch.zeros(8193, 1), "target": torch.arange(8193)},
            "pred: must not make over .* pairs of rows",
        ),
    ],
    ids=str,
)
def test_triplets_refuse(change, rule):
    """What has no triplets, or too many, is refused."""
    with pytest.raises(losswire.errors.RequestError, match=rule):
        answer(TRIPLET, identities(4) | change)


def test_corners_may_be_tensors():
    """Objects come as plain lists or as integer tensors, an image at a time."""
    inputs = corners(3)
    tensors = [torch.tensor(one).reshape(-1, 2, 2).int() for one in inputs["match"]]
    plain, packed = answer(CORNERS, inputs), answer(CORNERS, inputs | {"match": tensors})

    assert packed.losses == plain.losses
    assert torch.equal(packed.grad, plain.grad)


def test_no_objects():
    """Without objects there is nothing to pull or to push, and NaN embeddings are not read."""
    pred = torch.full((2, 1, 3, 3), torch.nan)
    result = answer(CORNERS, {"pred": pred, "target": pred, "match": [[], []]})

    assert result.losses == {"pull": 0, "push": 0}
    assert not result.grad.any()


ROOM = "must be a list of objects"


@pytest.mark.parametrize(
    ("match", "rule"),
    [
        ([[[[0, 0], [0, 4]]]], r"match\[0\]: an index must be in -4\.\.3; given 4"),
        ([[[[-4, 0], [0, 0]]]], r"match\[0\]: an index must be in -3\.\.2; given -4"),
        ([[[[0, 0], [0, 0.0]]]], ROOM),
        ([[[[0, 0], [0, True]]]], ROOM),
        ([[[[0, 0], [0]]]], ROOM),
        ([[[[0, 0]]]], ROOM),
        ([[[0, 0, 0, 0]]], ROOM),
        ([3], ROOM),
        ([torch.zeros(1, 4, dtype=torch.int64)], ROOM),
        ([torch.zeros(1, 2, 2)], ROOM),
        ([torch.zeros(4097, 2, 2, dtype=torch.int8)], "pairs of embeddings"),
        ([[], []], "match: must be a list with an item for each of 1 images; given 2 items"),
        (torch.zeros(1, 1, 2, 2), "match: must be a list with an item for each of 1 images"),
    ],
    ids=str,
)
def test_corners_refuse(match, rule):
    """Whatever is no list of corners within the map is refused."""
    with pytest.raises(losswire.errors.RequestError, match=rule):
        answer(CORNERS, corners(1) | {"match": match})
