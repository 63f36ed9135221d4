"""The cells of a grid that objects' centres are in, by which YOLO's anchors are responsible."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lossserver.detection.anchors import Anchors
from lossserver.registry import RefusedError


def responsible(priors: Anchors, sizes: Sequence[tuple[int, int]], boxes: Tensor) -> Tensor:
    """Which anchors are in the cell of a box's centre.

    Parameters:
        priors: the generator of the anchors.
        sizes: height and width of each level's map.
        boxes: [n, 4], checked by `check_centres`.

    Returns:
        bool [A], of all levels.
    """
    flags = []
    for (height, width), stride, count in zip(
        sizes, priors.pairs, priors.num_base_priors, strict=True
    ):
        cells = torch.zeros(height * width, dtype=torch.bool, device=boxes.device)
        cells[_cell_of(boxes, width, stride).long()] = True
        flags.append(cells.repeat_interleave(count))
    return torch.cat(flags)


def check_centres(
    priors: Anchors, sizes: Sequence[tuple[int, int]], boxes: Tensor, field: str
) -> None:
    """Refuse a box of the field whose centre is in no cell of a level.

    Raises:
        RefusedError: naming box and level.
    """
    for level, (size, stride) in enumerate(zip(sizes, priors.pairs, strict=True)):
        cell, count = _cell_of(boxes, size[1], stride), size[0] * size[1]
        # Upstream counts cells from the end where the number is below 0. It may be NaN.
        outside = (~((cell >= -count) & (cell < count))).nonzero()
        if len(outside):
            row = int(outside[0])
            rule = f"must have its centre in the map of level {level}, {list(size)}"
            raise RefusedError(f"{field}[{row}]", rule, boxes[row].tolist())


def _cell_of(boxes: Tensor, width: int, stride: tuple[int, int]) -> Tensor:
    """The cell [n] that each box's centre is in, counted along rows of that width; float64."""
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    column, row = (centres / centres.new_tensor(stride)).floor().double().unbind(1)
    return row * width + column
