"""The set loss of DETR: what matching does with odd costs, counts and sizes."""

import pytest
import torch

from losswire.errors import SpecError, TensorError
from tests.losses.calls import answer, job_of
from tests.losses.cases.matching import scene

HUNGARIAN = {"type": "HungarianLoss"}


def objects(*boxes, labels=None):
    """One image with these objects, all of class 0 unless said otherwise."""
    labels = [0] * len(boxes) if labels is None else labels
    return {"labels": [torch.tensor(labels)], "boxes": [torch.tensor(boxes).view(-1, 4)]}


def queries(*boxes):
    """One image's queries, which find the two classes and no object equally likely."""
    return {"logits": torch.zeros(1, len(boxes), 3), "boxes": torch.tensor([boxes])}


LEFT, RIGHT, BOTH = [0.2, 0.5, 0.2, 0.4], [0.8, 0.5, 0.2, 0.4], [0.5, 0.5, 0.9, 0.4]
NOWHERE = [float("nan")] * 4


def test_a_query_of_nan_is_matched_last():
    """One query that is NaN leaves the others to the objects, and the losses of boxes finite."""
    pred = queries(RIGHT, NOWHERE, LEFT)
    result = answer(HUNGARIAN, {"pred": pred, "target": objects(LEFT, RIGHT)})

    assert float(result.losses["loss_bbox"]) == 0
    assert float(result.losses["loss_giou"]) == pytest.approx(0, abs=1e-6)
    assert result.losses["loss_cls"].isfinite()


def test_nothing_but_nan_is_matched_all_the_same():
    """Costs that are all NaN are computed, and the losses say so."""
    pred = queries(NOWHERE, NOWHERE)
    result = answer(HUNGARIAN, {"pred": pred, "target": objects(LEFT, RIGHT)})

    assert result.losses["loss_bbox"].isnan()
    assert result.losses["loss_cls"].isfinite()


def test_of_too_many_objects_the_dearest_is_left_out():
    """With more objects than queries each query has its own, and what is left costs nothing."""
    pred = queries(LEFT, RIGHT)
    result = answer(HUNGARIAN, {"pred": pred, "target": objects(BOTH, LEFT, RIGHT)})

    assert float(result.losses["loss_bbox"]) == 0


def test_images_without_objects():
    """With no object at all the boxes cost 0, and every query is to find nothing."""
    given = {
        "pred": queries(LEFT, RIGHT),
        "target": {"labels": [torch.zeros(0)], "boxes": [torch.zeros(0, 4)]},
    }
    result = answer(HUNGARIAN, given)

    assert float(result.losses["loss_bbox"]) == float(result.losses["loss_giou"]) == 0
    assert float(result.losses["loss_cls"]) == pytest.approx(torch.tensor(3.0).log().item())
    assert not result.grad["boxes"].any()


def test_boxes_are_divided_by_one_at_least():
    """An avg_factor below 1, such as the mean over GPUs without objects, is 1."""
    inputs = scene(5)(3)
    few, one = (answer(HUNGARIAN, inputs, avg_factor=n).losses for n in (0.25, 1.0))

    assert torch.equal(few["loss_bbox"], one["loss_bbox"])
    assert torch.equal(few["loss_giou"], one["loss_giou"])


def test_objects_have_gradients_too():
    """The boxes of objects are inputs like others."""
    grads = answer(HUNGARIAN, scene(5)(3), wrt=("pred", "target")).grads

    assert [grad.shape[0] for grad in grads["target"]["boxes"]] == [2, 0, 3]
    assert all(grad is None for grad in grads["target"]["labels"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": objects(LEFT, labels=[2])}, r"in 0\.\.1; given 2"),
        ({"target": objects(LEFT, labels=[0.0])}, "must be of an integer type"),
        ({"target": objects(LEFT, labels=[0, 1])}, r"target.boxes\[0\]: must be \[2, 4\]"),
        ({"target": {"labels": [], "boxes": []}}, "a tensor for each of 1 images"),
        ({"target": {"labels": [3], "boxes": [torch.zeros(1, 4)]}}, "must be a tensor"),
        ({"target": {"labels": torch.zeros(1, 1)}}, "must be a map of labels and boxes"),
        ({"pred": queries(LEFT) | {"boxes": torch.zeros(1, 2, 4)}}, r"must be \[1, 1, 4\]"),
        ({"pred": queries(LEFT) | {"logits": torch.zeros(1, 3)}}, r"must be \[B, Q, C \+ 1\]"),
        ({"pred": queries(LEFT) | {"logits": [torch.zeros(1)]}}, "must be a tensor"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_does_not_fit_is_refused(change, message):
    """The refusal names the part of the input that is wrong."""
    with pytest.raises(TensorError, match=message):
        job_of(HUNGARIAN, {"pred": queries(LEFT), "target": objects(LEFT)} | change)


def test_negative_prices_are_refused():
    """A cost below 0 would match what fits least."""
    with pytest.raises(SpecError, match="cost_giou: must be at least 0"):
        job_of(HUNGARIAN | {"cost_giou": -1}, {"pred": queries(LEFT), "target": objects(LEFT)})


@pytest.mark.parametrize(
    ("queried", "sizes", "message"), [(4096, [5000], "pairs of"), (2100, [2100], "steps to match")]
)
def test_more_than_can_be_matched_is_refused(queried, sizes, message):
    """The time and memory of a matching are bounded before anything is allocated."""
    pred = {"logits": torch.zeros(1, queried, 2), "boxes": torch.zeros(1, queried, 4)}
    target = {
        "labels": [torch.zeros(n, dtype=torch.uint8) for n in sizes],
        "boxes": [torch.zeros(n, 4) for n in sizes],
    }
    with pytest.raises(TensorError, match=message):
        job_of(HUNGARIAN, {"pred": pred, "target": target})
