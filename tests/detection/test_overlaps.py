"""Overlaps of boxes, as MMDetection has them."""

import pytest
import torch

from lossserver.detection.overlaps import bbox_overlaps
from tests.detection.golden_parts import golden_parts


@pytest.mark.parametrize("golden", golden_parts("bbox_overlaps"), ids=str)
def test_same_as_upstream(golden):
    """Overlaps and their gradients are upstream's, pairwise and aligned."""
    leaves, args, kwargs = golden.leaves()
    boxes = [kwargs.pop(name) for name in ("bboxes1", "bboxes2") if name in kwargs]
    found = bbox_overlaps(*args, *boxes, **kwargs)
    expected = golden.expected

    golden.assert_equal(found.detach(), golden.output("out"))
    for kind, upstream in (("grad_ones", torch.ones_like(found)), ("grad_go", None)):
        if any(expected.get(kind, {}).values()):
            seed = (
                golden.tensor(expected["go"]["out"]).to(found.dtype)
                if upstream is None
                else upstream
            )
            grads = torch.autograd.grad(found, list(leaves.values()), seed, retain_graph=True)
            for name, grad in zip(leaves, grads, strict=True):
                golden.assert_close(grad, golden.tensor(expected[kind][name]))
