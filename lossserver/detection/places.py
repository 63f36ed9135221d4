"""The smallest object at every place of a map, without looking at each place's x and y apart.

Whether an object reaches a place is known of its row and of its column, so places times objects are
only joined, in blocks.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lossserver.detection.overlaps import BLOCK


class Reach(NamedTuple):
    """What is so of n objects in each row and in each column of a map.

    Attributes:
        rows: bool [H, n].
        columns: bool [W, n].
    """

    rows: Tensor
    columns: Tensor


def smallest(
    sizes: Tensor,
    shape: tuple[int, int],
    reach_of: Callable[[slice], tuple[Reach, Reach | None]],
    none: float,
) -> tuple[Tensor, Tensor]:
    """The least size of the objects at each place [H · W], and whose it is; the first of equals.

    Parameters:
        sizes: [n], at least one.
        shape: height and width of the map, in places.
        reach_of: of some of the objects: one is at a place that is within the first in its row and
            in its column, and within the second, if there is one, in either.
        none: the size where there is no object, and whose it is means nothing.
    """
    many = max(1, BLOCK // max(1, *shape))
    least, whose = _least(sizes[:many], *reach_of(slice(0, many)), none)
    for start in range(many, len(sizes), many):
        objects = slice(start, start + many)
        other, index = _least(sizes[objects], *reach_of(objects), none)
        whose = torch.where(other < least, index + start, whose)
        least = torch.minimum(other, least)
    return least, whose


def _least(
    sizes: Tensor, within: Reach, either: Reach | None, none: float
) -> tuple[Tensor, Tensor]:
    rows = max(1, BLOCK // max(1, within.columns.numel()))
    found = []
    for start in range(0, max(1, len(within.rows)), rows):
        block = slice(start, start + rows)
        fits = within.rows[block, None] & within.columns
        if either is not None:
            fits &= either.rows[block, None] | either.columns
        found.append(torch.where(fits, sizes, none).min(-1))
    least, whose = (torch.cat([part.flatten() for part in one]) for one in zip(*found, strict=True))
    return least, whose
