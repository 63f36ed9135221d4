"""Maps of key points, as CornerNet and CenterNet learn them: heat around each, numbers at its cell.

All points of all maps are drawn at once. A Gaussian costs the cells that it covers on its map,
whatever the size of the box that it was made for: that is a stranger's number.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Cells that a Gaussian is made for at most. Its radius stays below 12,000, from which on the
#: cells next to a peak would round to 1 and be peaks, too.
MAX_SIZE = 1 << 15

#: Cells to be drawn at once; an index of them takes 16 MiB.
MAX_CELLS = 1 << 21


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyPoints:
    """The n points of a number of maps, in the order in which they were given.

    Attributes:
        maps: int64 [n], which map each is on.
        labels: int64 [n], its class.
        cells: int64 [n, 2], its column and row.
        radii: int64 [n], of its Gaussian, in cells.
    """

    maps: Tensor
    labels: Tensor
    cells: Tensor
    radii: Tensor


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float = 0.3) -> Tensor:
    """How far corners may be moved by so many whole cells that the box still overlaps enough.

    r = min(r₁, r₂, r₃), int64 [n], where the moved box has an IoU of min_overlap = o with its own:

        one corner moved inwards, one outwards   r₁² - (h + w) r₁ + hw (1 - o) / (1 + o) = 0
        both inwards                             4r₂² - 2 (h + w) r₂ + hw (1 - o) = 0
        both outwards                            4o r₃² + 2o (h + w) r₃ - hw (1 - o) = 0

    Parameters:
        height, width: of the boxes, float [n], in cells. Their dtype decides what is rounded off,
            and so is upstream's: there one head has float32, the other Python's numbers.
        min_overlap: o, above 0.

    Source:
        MMDetection 3.3.0, `gaussian_radius`.
    """
    height, width = height.clamp(max=MAX_SIZE), width.clamp(max=MAX_SIZE)
    around = height + width
    mixed = around.square() - 4 * (width * height * (1 - min_overlap) / (1 + min_overlap))
    inwards = (2 * around).square() - 16 * ((1 - min_overlap) * width * height)
    linear = 2 * min_overlap * around
    outwards = linear.square() - 16 * min_overlap * ((min_overlap - 1) * width * height)
    radii = (
        (around - mixed.sqrt()) / 2,
        (2 * around - inwards.sqrt()) / 8,
        (outwards.sqrt() - linear) / (8 * min_overlap),
    )
    return torch.stack(radii).amin(0).long().clamp(min=0)


def heat_maps(points: KeyPoints, shape: tuple[int, int, int, int]) -> Tensor:
    """Float32 [maps, classes, height, width], the greatest of the Gaussians at each cell; 1 at a point.

    A Gaussian ends at its radius r, and its σ is (2r + 1) / 6.
    """
    heat = torch.zeros(math.prod(shape), device=points.cells.device)
    many = max(1, MAX_CELLS // max(1, shape[2] * shape[3]))
    columns = (points.maps, points.labels, points.cells, points.radii)
    for maps, labels, cells, radii in zip(*(one.split(many) for one in columns), strict=True):
        _draw(heat, KeyPoints(maps=maps, labels=labels, cells=cells, radii=radii), shape)
    return heat.view(shape)


def _draw(heat: Tensor, points: KeyPoints, shape: tuple[int, int, int, int]) -> None:
    """Raise the heat [maps · classes · height · width] to that of these points."""
    _, classes, height, width = shape
    reach = points.radii.unsqueeze(1)
    last = points.cells.new_tensor([width, height]) - 1
    first = (points.cells - reach).clamp(min=0)
    wide, tall = (torch.minimum(points.cells + reach, last) - first + 1).clamp(min=0).unbind(1)
    covered = wide * tall
    # Of each cell that a Gaussian covers: whose it is, and the how manieth of it.
    index = torch.arange(len(covered), device=heat.device)
    owner = index.repeat_interleave(covered)
    place = torch.arange(len(owner), device=heat.device) - (covered.cumsum(0) - covered)[owner]
    x = first[owner, 0] + place % wide[owner]
    y = first[owner, 1] + place // wide[owner]
    column, row = points.cells[owner].unbind(1)
    sigma = (2 * points.radii + 1).double() / 6
    spread = (2 * sigma * sigma).float()
    values = torch.exp(-((x - column).square() + (y - row).square()).float() / spread[owner])
    map_of = (points.maps * classes + points.labels)[owner]
    heat.scatter_reduce_(0, (map_of * height + y) * width + x, values, "amax")


def peaks_of(points: KeyPoints, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """How many cells of each map are 1 in its heat, [maps]; and where one of any class is.

    The latter float32 [maps, 1, height, width], 1 or 0. Both without a look at all the heat: they
    are the points' own cells, but for points that are not on their map.
    """
    maps, classes, height, width = shape
    size = points.cells.new_tensor([width, height])
    found = ((points.cells >= 0) & (points.cells < size)).all(1).nonzero().squeeze(1)
    column, row = points.cells[found].unbind(1)
    cells = (points.maps[found] * height + row) * width + column
    there = torch.zeros(maps * height * width, device=cells.device)
    there[cells] = 1
    distinct = torch.unique(cells * classes + points.labels[found])
    count = (distinct // (height * width * classes)).bincount(minlength=maps)
    return count, there.view(maps, 1, height, width)


def at_cells(points: KeyPoints, values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Float [maps, K, height, width] with the values [n, K] at the points' cells, and 0 elsewhere.

    Where points share a cell the last one's count. A column or row below 0 is one from the end.

    Parameters:
        points: of which labels and radii are not read.
        values: of each.
        shape: maps, height, width.
    """
    maps, height, width = shape
    column, row = points.cells.unbind(1)
    cells = (points.maps * height + row % height) * width + column % width
    order = torch.arange(len(cells), device=cells.device)
    last = order.new_zeros(maps * height * width).scatter_reduce_(0, cells, order, "amax")
    found = values.new_zeros(maps * height * width, values.shape[1])
    # Those that share a cell write the same there, so that it does not matter who is first.
    found[cells] = values[last[cells]]
    return found.view(maps, height, width, -1).permute(0, 3, 1, 2)
