"""Gaussians around key points, against the geometry and the formula they come from."""

import math

import pytest
import torch

from lossserver.detection import gaussian
from lossserver.detection.gaussian import KeyPoints, at_cells, gaussian_radius, heat_maps, peaks_of


def overlaps_of_moved(height, width, by):
    """The IoU of a box with itself after its corners moved so far: mixed, inwards, outwards."""
    inner = max(height - 2 * by, 0) * max(width - 2 * by, 0)
    shared = max(height - by, 0) * max(width - by, 0)
    whole = height * width
    return (
        shared / (2 * whole - shared),
        inner / whole,
        whole / ((height + 2 * by) * (width + 2 * by)),
    )


@pytest.mark.parametrize("least", [0.1, 0.3, 0.7])
def test_radius_is_the_farthest_that_still_overlaps(least):
    """Corners moved by the radius leave enough overlap, however they move; a cell more does not."""
    sides = [(7.0, 9.0), (40.0, 3.0), (1.0, 1.0), (250.0, 180.0), (33.3, 33.3)]
    height, width = torch.tensor(sides, dtype=torch.float64).unbind(1)
    radii = gaussian_radius(height, width, least).tolist()

    for (h, w), r in zip(sides, radii, strict=True):
        assert min(overlaps_of_moved(h, w, r)) >= least
        assert min(overlaps_of_moved(h, w, r + 1)) < least


def points_of(rows):
    """Key points of rows (map, label, column, row, radius)."""
    maps, labels, columns, lines, radii = (
        torch.tensor(rows, dtype=torch.int64).reshape(-1, 5).unbind(1)
    )
    cells = torch.stack([columns, lines], 1)
    return KeyPoints(maps=maps, labels=labels, cells=cells, radii=radii)


def heat(rows, place):
    """The heat at one place, from the definition."""
    values = [0.0]
    for key, label, column, row, radius in rows:
        dx, dy, sigma = place[3] - column, place[2] - row, (2 * radius + 1) / 6
        if (key, label) == place[:2] and max(abs(dx), abs(dy)) <= radius:
            values.append(math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)))
    return max(values)


ROWS = [
    (0, 0, 2, 1, 2), (0, 0, 3, 1, 1), (0, 1, 0, 0, 0), (1, 0, 5, 4, 40),
    (1, 1, -1, 2, 3), (1, 1, -3, 2, 1), (1, 1, 1, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("cells", [1, 1 << 21])
def test_heat_is_the_greatest_of_the_gaussians(monkeypatch, cells):
    """Every cell has the definition's value, whether points are drawn at once or one by one."""
    monkeypatch.setattr(gaussian, "MAX_CELLS", cells)
    shape = (2, 2, 5, 6)
    drawn = heat_maps(points_of(ROWS), shape)

    for place in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        assert float(drawn[tuple(place)]) == pytest.approx(heat(ROWS, tuple(place)), rel=1e-6)


def test_no_points_no_heat():
    """Maps without a point are 0, and so are the numbers at their cells."""
    none = points_of([])

    assert not heat_maps(none, (1, 2, 3, 4)).any()
    assert not at_cells(none, torch.zeros(0, 2), (1, 3, 4)).any()


def test_the_last_in_a_cell_counts():
    """Of points that share a cell the last one's numbers stay; a cell before 0 is one from the end."""
    points = points_of([(0, 0, 1, 1, 0), (0, 1, 1, 1, 0), (0, 0, -1, -2, 0)])
    found = at_cells(points, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), (1, 3, 4))

    assert found[0, :, 1, 1].tolist() == [3.0, 4.0]
    assert found[0, :, 1, 3].tolist() == [5.0, 6.0]
    assert found.count_nonzero() == 4


def test_a_box_of_any_size_costs_its_map():
    """A Gaussian for a box of 10⁹ cells is as large as the map, and has one peak."""
    side = torch.full((1,), 1e9)
    radius = gaussian_radius(side, side)
    points = points_of([(0, 0, 3, 2, int(radius))])

    assert heat_maps(points, (1, 1, 5, 6)).eq(1).sum() == 1


def test_peaks_are_where_the_heat_is_1():
    """Counts and places of peaks are those of the drawn maps; a point beyond its map is none."""
    shape = (2, 2, 5, 6)
    points = points_of([*ROWS, ROWS[0], (0, 1, 2, 1, 1)])
    ones = heat_maps(points, shape).eq(1)
    count, there = peaks_of(points, shape)

    assert count.tolist() == ones.flatten(1).sum(1).tolist()
    assert torch.equal(there, ones.any(1, keepdim=True).float())
