"""Overlaps of boxes, aligned and in pairs."""

import pytest
import torch

from lossserver.losses.boxes import giou, iof, iou
from tests.losses.calls import assert_all_close
from tests.losses.cases.iou import area, boxes, shared
from tests.losses.cases.iou import giou as giou_loss


@pytest.mark.parametrize(
    ("overlap", "reference"),
    [
        (iou, lambda a, b: shared(a, b) / (area(a) + area(b) - shared(a, b))),
        (iof, lambda a, b: shared(a, b) / area(a)),
        (giou, lambda a, b: 1 - giou_loss(a, b)),
    ],
    ids=["iou", "iof", "giou"],
)
def test_pairs_are_made_by_broadcasting(overlap, reference):
    """Boxes [N, 1, 4] and [M, 4] give [N, M], each element that of its two boxes alone."""
    a, b = boxes(4)["pred"], boxes(3)["target"]
    pairs = overlap(a[:, None], b)
    expected = [[reference(x, y) for y in b.tolist()] for x in a.tolist()]

    assert_all_close(pairs, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(pairs[:3].diagonal(), overlap(a[:3], b))


@pytest.mark.parametrize("overlap", [iou, iof, giou])
def test_boxes_without_area_have_a_finite_overlap(overlap):
    """Two points, one over the other or apart, are kept from 0 / 0 by eps."""
    points = torch.tensor([[1.0, 1.0, 1.0, 1.0]]).repeat(2, 1)
    others = points + torch.tensor([[0.0], [1.0]])

    assert overlap(points, others).isfinite().all()
