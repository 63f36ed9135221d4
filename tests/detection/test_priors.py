"""Prior generators: MMDetection's own anchors and points, and what no generator is built from."""

import pytest
import torch

from lossserver.detection.parts import PRIORS
from lossserver.registry import RefusedError
from tests.detection.golden_parts import golden_parts

CPU = torch.device("cpu")
BOXES = {"type": "AnchorGenerator", "strides": [8], "ratios": [1.0], "scales": [4]}
SSD = {"type": "SSDAnchorGenerator", "strides": [8, 16, 32], "ratios": [[2], [2, 3], []]}
YOLO = {"type": "YOLOAnchorGenerator", "strides": [32, 16], "base_sizes": [[[116, 90]], [[30, 61]]]}
POINTS = {"type": "MlvlPointGenerator", "strides": [8, [16, 4]]}


@pytest.mark.parametrize("golden", golden_parts("prior"), ids=str)
def test_same_as_upstream(golden):
    """Priors, and which of them are valid, are upstream's to the bit."""
    if golden.expected.get("raises"):
        with pytest.raises(RefusedError):
            PRIORS.build(golden.config)
        return
    generator = PRIORS.build(golden.config)
    given = golden.value(golden.step["kwargs"])
    sizes = [tuple(size) for size in given["featmap_sizes"]]

    assert generator.num_base_priors == golden.outputs("num_base_priors")
    for found, wanted in zip(
        generator.grid(sizes, CPU), golden.outputs("grid_priors"), strict=True
    ):
        golden.assert_equal(found, wanted)
    if "valid_flags" in golden.expected["structure"]:
        flags = generator.valid(sizes, tuple(given["pad_shape"][:2]), CPU)
        for found, wanted in zip(flags, golden.outputs("valid_flags"), strict=True):
            golden.assert_equal(found, wanted)


def test_order_is_row_column_anchor():
    """Anchors of a place stand together, places of a row after one another."""
    generator = PRIORS.build(BOXES | {"scales": [1, 2], "strides": [[10, 100]]})
    (anchors,) = generator.grid([(2, 3)], CPU)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2

    wanted = [[x, y] for y in (0.0, 100.0) for x in (0.0, 10.0, 20.0) for _ in range(2)]
    assert centres.tolist() == wanted


def test_points_with_strides():
    """A point is in the middle of its place, and followed by the stride where that is asked for."""
    generator = PRIORS.build(POINTS)
    plain = generator.grid([(1, 2), (2, 1)], CPU)
    strided = generator.grid([(1, 2), (2, 1)], CPU, with_stride=True)

    assert plain[0].tolist() == [[4, 4], [12, 4]]
    assert strided[1].tolist() == [[8, 2, 16, 4], [8, 6, 16, 4]]


def test_legacy_anchors_are_whole_pixels():
    """The anchors of MMDetection 1 span one pixel less, from 0."""
    config = {"strides": [16], "ratios": [1.0], "scales": [1.0], "base_sizes": [9]}
    generator = PRIORS.build(config | {"type": "LegacyAnchorGenerator", "center_offset": 0.5})

    assert generator.grid([(1, 2)], CPU)[0].tolist() == [[0, 0, 8, 8], [16, 0, 24, 8]]


def test_legacy_ssd_differs_from_ssd_by_pixels():
    """The legacy anchors of SSD are the others with corners in whole pixels."""
    new = PRIORS.build(SSD | {"min_sizes": [21, 45, 99], "max_sizes": [45, 99, 153]})
    old = PRIORS.build(
        SSD
        | {
            "min_sizes": [21, 45, 99],
            "max_sizes": [45, 99, 153],
            "type": "LegacySSDAnchorGenerator",
        }
    )

    for a, b in zip(new.base, old.base, strict=True):
        assert torch.equal(b, b.round())
        assert (a - b).abs().max() <= 1.5


def test_a_map_beyond_the_padding_is_not_valid():
    """Places outside of the padded image are not valid, and those half in it are."""
    (flags,) = PRIORS.build(BOXES).valid([(2, 3)], (9, 7), CPU)

    assert flags.tolist() == [True, False, False, True, False, False]


def test_an_empty_map_has_no_priors():
    """A level of no height is a level of no priors."""
    generator = PRIORS.build(BOXES)

    assert generator.grid([(0, 3)], CPU)[0].shape == (0, 4)
    assert generator.valid([(0, 3)], (8, 8), CPU)[0].shape == (0,)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (BOXES | {"strides": []}, "strides"),
        (BOXES | {"strides": [0]}, "strides[0]"),
        (BOXES | {"strides": [8, [8, 8, 8]]}, "strides[1]"),
        (BOXES | {"strides": [8.5]}, "strides[0]"),
        (BOXES | {"ratios": [0.0]}, "ratios"),
        (BOXES | {"ratios": []}, "ratios"),
        (BOXES | {"ratios": [float("nan")]}, "ratios"),
        (BOXES | {"scales": [-1]}, "scales"),
        (BOXES | {"scales": None}, "scales"),
        (BOXES | {"scales": [1.0] * 2000}, "scales"),
        (BOXES | {"octave_base_scale": 4, "scales_per_octave": 3}, "scales"),
        (
            BOXES | {"scales": None, "octave_base_scale": 4, "scales_per_octave": 1 << 40},
            "scales_per_octave",
        ),
        (
            BOXES | {"scales": None, "octave_base_scale": float("inf"), "scales_per_octave": 1},
            "octave_base_scale",
        ),
        (BOXES | {"base_sizes": [1.0, 2.0]}, "base_sizes"),
        (BOXES | {"centers": [[1.0]]}, "centers[0]"),
        (BOXES | {"centers": [[1.0, 1.0]], "center_offset": 0.5}, "center_offset"),
        (BOXES | {"center_offset": 1.5}, "center_offset"),
        (SSD | {"min_sizes": [1, 2, 3]}, "max_sizes"),
        (SSD | {"min_sizes": [1, 2], "max_sizes": [2, 3]}, "min_sizes"),
        (SSD | {"ratios": [[2], [2]]}, "ratios"),
        (SSD | {"ratios": [[2], [2], [0]]}, "ratios[2]"),
        (SSD | {"input_size": 301}, "basesize_ratio_range"),
        (SSD | {"basesize_ratio_range": [0.15, 0.15]}, "basesize_ratio_range"),
        (SSD | {"basesize_ratio_range": [0.15, 0.151]}, "basesize_ratio_range"),
        (SSD | {"strides": [8, 16], "ratios": [[2], [2]]}, "strides"),
        (YOLO | {"base_sizes": [[[1, 2]]]}, "base_sizes"),
        (YOLO | {"base_sizes": [[[1, 2]], [[1, 2, 3]]]}, "base_sizes[1][0]"),
        (YOLO | {"base_sizes": [[[1, 2]], [[1, 2], [3, 4]]]}, "base_sizes[1]"),
        (POINTS | {"offset": float("inf")}, "offset"),
    ],
)
def test_what_no_priors_are_made_of_is_refused(config, field):
    """A config that makes no anchors, or too many, is refused by the name of its field."""
    with pytest.raises(RefusedError) as refused:
        PRIORS.build(config)

    assert refused.value.field == field
