"""How much boxes overlap, every pair of them or aligned ones.

Assigners, for which all pairs at once are too many, go block by block: `assigners/pairs.py`.
"""

from typing import Literal

from torch import Tensor

from lossserver.losses.boxes import giou, iof, iou

Mode = Literal["iou", "iof", "giou"]

#: Pairs of objects and priors that are looked at together: 32 MiB of float32, and a few times that
#: for what is between.
BLOCK = 1 << 23

_OF = {"iou": iou, "iof": iof, "giou": giou}


def bbox_overlaps(
    a: Tensor, b: Tensor, mode: Mode = "iou", *, is_aligned: bool = False, eps: float = 1e-6
) -> Tensor:
    """The overlap of each box of a with each of b, [N, M]; differentiable.

    The values are those of MMDetection 3.3.0's function of that name, to the bit.

    Parameters:
        a: [N, 4], x1, y1, x2, y2.
        b: [M, 4].
        mode: shared area over that of both ("iou"), over that of a ("iof"), or generalized IoU.
        is_aligned: compare row with row instead, [N].
        eps: no area that divides is less.
    """
    return _OF[mode](a if is_aligned else a[:, None], b, eps)
