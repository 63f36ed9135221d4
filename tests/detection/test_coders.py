"""Box coders: MMDetection's own values, and that what is encoded is decoded again."""

from math import log

import pytest
import torch

from lossserver.detection.parts import CODERS
from lossserver.registry import RefusedError
from tests.detection.golden_parts import golden_parts

DELTA = {"type": "DeltaXYWHBBoxCoder"}
PRIORS = torch.tensor([[0.0, 0.0, 16.0, 8.0], [4.0, 2.0, 12.0, 34.0], [-8.0, -8.0, 8.0, 8.0]])
BOXES = torch.tensor([[2.0, 1.0, 12.0, 9.0], [3.0, 5.0, 9.0, 25.0], [1.0, 1.0, 3.0, 4.0]])


@pytest.mark.parametrize("golden", golden_parts("coder"), ids=str)
def test_same_as_upstream(golden):
    """What is encoded or decoded, and the gradient of predictions, are upstream's."""
    coder = CODERS.build(golden.config)
    leaves, args, kwargs = golden.leaves()
    found = getattr(coder, golden.step["method"])(*args, **kwargs)
    expected = golden.expected

    golden.assert_close(found.detach(), golden.output("out"))
    for kind in ("grad_ones", "grad_go"):
        for name, key in expected.get(kind, {}).items():
            go = torch.ones_like(found)
            if kind == "grad_go":
                go = golden.tensor(expected["go"]["out"]).to(found.dtype)
            (grad,) = torch.autograd.grad(found, leaves[name], go, retain_graph=True)
            golden.assert_close(grad, golden.tensor(key))


@pytest.mark.parametrize(
    "config",
    [
        DELTA,
        DELTA | {"target_means": [0.1, 0.2, -0.1, 0.0], "target_stds": [0.1, 0.1, 0.2, 0.2]},
        {"type": "TBLRBBoxCoder"},
        {"type": "TBLRBBoxCoder", "normalizer": [1, 2, 3, 4]},
        {"type": "DistancePointBBoxCoder"},
        {"type": "PseudoBBoxCoder"},
    ],
)
def test_decoded_is_what_was_encoded(config):
    """Decoding undoes encoding, for priors of all images at once as well."""
    coder = CODERS.build(config)
    encoded = coder.encode(PRIORS, BOXES)

    torch.testing.assert_close(coder.decode(PRIORS, encoded), BOXES)
    torch.testing.assert_close(coder.decode(PRIORS, encoded.expand(2, 3, 4)), BOXES.expand(2, 3, 4))


@pytest.mark.parametrize("stride", [16, torch.tensor([16.0, 8.0, 32.0])])
def test_yolo_decodes_what_it_encoded(stride):
    """A stride may be one number or one of each prior."""
    coder = CODERS.build({"type": "YOLOBBoxCoder"})
    encoded = coder.encode(PRIORS, PRIORS + 2.0, stride)

    torch.testing.assert_close(coder.decode(PRIORS, encoded, stride), PRIORS + 2.0)


def test_a_legacy_box_is_a_pixel_longer():
    """The legacy coder counts both corners: boxes from 0 to 9 and to 19 are ten and twenty wide."""
    coder = CODERS.build({"type": "LegacyDeltaXYWHBBoxCoder"})
    ten, twenty = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 19.0, 9.0]])

    torch.testing.assert_close(coder.encode(ten, twenty), torch.tensor([[0.5, 0.0, log(2), 0.0]]))


@pytest.mark.parametrize(
    "config", [DELTA, {"type": "TBLRBBoxCoder"}, {"type": "DistancePointBBoxCoder"}]
)
def test_clip_border(config):
    """Boxes are cut to the image, unless the config says not to."""
    cut = CODERS.build(config).decode(PRIORS, PRIORS, (6, 5))
    whole = CODERS.build(config | {"clip_border": False}).decode(PRIORS, PRIORS, (6, 5))

    limits = torch.tensor([5.0, 6.0, 5.0, 6.0])
    assert torch.equal(cut, whole.clamp(min=torch.zeros(4), max=limits))
    assert not torch.equal(cut, whole)


def test_a_side_changes_only_so_much():
    """A huge logarithm is cut, and its gradient is 0; a way is only cut where the config says so."""
    predictions = torch.tensor([[0.0, 9.0, 99.0, -99.0]], requires_grad=True)
    priors = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    free = CODERS.build(DELTA).decode(priors, predictions)
    held = CODERS.build(DELTA | {"add_ctr_clamp": True, "ctr_clamp": 4}).decode(priors, predictions)
    (grad,) = torch.autograd.grad(free.sum(), predictions)

    torch.testing.assert_close(free, torch.tensor([[-307.5, 94.92, 317.5, 95.08]]))
    torch.testing.assert_close(held, torch.tensor([[-307.5, 9.0, 317.5, 9.0]]))
    assert grad[0, 2:].tolist() == [0, 0]


def test_predictions_keep_their_dtype():
    """float64 predictions of float32 priors give float64 boxes, of which gradcheck holds."""
    predictions = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    for config in (DELTA, {"type": "TBLRBBoxCoder"}, {"type": "DistancePointBBoxCoder"}):
        coder = CODERS.build(config)

        assert coder.decode(PRIORS, predictions).dtype is torch.float64
        assert torch.autograd.gradcheck(lambda p, c=coder: c.decode(PRIORS, p), predictions)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (DELTA | {"target_means": [0, 0, 0]}, "target_means"),
        (DELTA | {"target_stds": [1, 1, 1, 0]}, "target_stds"),
        (DELTA | {"target_stds": [1, 1, 1, float("nan")]}, "target_stds"),
        (DELTA | {"ctr_clamp": -1}, "ctr_clamp"),
        ({"type": "LegacyDeltaXYWHBBoxCoder", "target_stds": []}, "target_stds"),
        ({"type": "TBLRBBoxCoder", "normalizer": 0}, "normalizer"),
        ({"type": "TBLRBBoxCoder", "normalizer": [1, 2]}, "normalizer"),
        ({"type": "YOLOBBoxCoder", "eps": 0.5}, "eps"),
        ({"type": "PseudoBBoxCoder", "stds": 1}, "stds"),
    ],
)
def test_what_codes_nothing_is_refused(config, field):
    """A config that a coder cannot use is refused by the name of its field."""
    with pytest.raises(RefusedError) as refused:
        CODERS.build(config)

    assert refused.value.field == field
