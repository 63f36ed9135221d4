"""CornerNet's formulas, and what its inputs must be.

Source: Law & Deng, CornerNet, 2018, arXiv:1808.01244; code of princeton-vl/CornerNet,
models/py_utils/kp_utils.py. What that code gathers with a mask is written here
with `where`, so that what is masked out may hold anything.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import floating, name_of, refuse_pairs, require
from lossserver.registry import RefusedError

#: Added to counts, so that an image without objects divides by it and not by 0.
FEW = 1e-4


def clamped_sigmoid(x: Tensor) -> Tensor:
    """σ(x), kept within [1e-4, 1 - 1e-4]."""
    return x.sigmoid().clamp(1e-4, 1 - 1e-4)


def heat_loss(pred: Tensor, target: Tensor) -> Tensor:
    """The focal loss of one heat map, with its sum over positives and negatives divided by the positives."""
    positive, negative = target == 1, target < 1
    right = torch.where(positive, pred, 1)
    wrong = torch.where(negative, pred, 0)
    far = (1 - torch.where(negative, target, 1)) ** 4
    total = right.log() * (1 - right) ** 2 + (1 - wrong).log() * wrong**2 * far
    return -total.sum() / positive.sum().clamp(min=1)


def grouping_losses(first: Tensor, second: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pull and push of tags [B, K] of two corners, where mask [B, K] says which are objects."""
    first, second = torch.where(mask, first, 0), torch.where(mask, second, 0)
    count = mask.sum(1, keepdim=True).to(first.dtype)
    mean = (first + second) / 2
    pull = ((first - mean) ** 2 + (second - mean) ** 2) / (count + FEW)
    count = count.unsqueeze(2)
    near = F.relu(1 - (mean.unsqueeze(1) - mean.unsqueeze(2)).abs()) - 1 / (count + FEW)
    both = mask.unsqueeze(1) & mask.unsqueeze(2)
    push = torch.where(both, near, 0) / ((count - 1) * count + FEW)
    return pull.sum(), push.sum()


def offset_loss(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Smooth L1 of offsets [B, K, 2], summed over objects and divided by their number."""
    chosen = mask.unsqueeze(2)
    pred, target = torch.where(chosen, pred, 0), torch.where(chosen, target, 0)
    return F.smooth_l1_loss(pred, target.to(pred.dtype), reduction="sum") / (
        mask.sum().to(pred.dtype) + FEW
    )


def tensors_of(name: str, given: Any, count: int | None) -> dict[str, Tensor]:
    """The tensors of a list, by where they stand."""
    rule = f"must be a list of {count or 'one or more'} tensors"
    require(isinstance(given, list), name, rule, type(given).__name__)
    require(len(given) == count if count else len(given) > 0, name, rule, len(given))
    for i, one in enumerate(given):
        if not isinstance(one, Tensor):
            raise RefusedError(f"{name}[{i}]", "must be one tensor", type(one).__name__)
    return {f"{name}[{i}]": one for i, one in enumerate(given)}


def check_mask(mask: Tensor, name: str, stacks: int = 1) -> Tensor:
    """The mask, which must be [B, K] of 0 and 1, and of not too many pairs in all stacks."""
    require(mask.dim() == 2, name, "must be [B, K]", list(mask.shape))
    require(not mask.is_floating_point(), name, "must be bool or integer", name_of(mask.dtype))
    odd = mask[(mask != 0) & (mask != 1)]
    require(not len(odd), name, "must hold 0 and 1", odd[:1].tolist())
    refuse_pairs(stacks * mask.shape[0] * mask.shape[1] ** 2, "objects")
    return mask


def check_alike(name: str, given: Tensor, other: Tensor, what: str) -> None:
    """Refuse what is not floating point, or not shaped like the other."""
    floating(given, name)
    rule = f"must be shaped like {what}, {list(other.shape)}"
    require(given.shape == other.shape, name, rule, list(given.shape))


def check_tags(name: str, given: Tensor, mask: Tensor) -> None:
    """Refuse tags that do not fit the mask."""
    rule = f"must be {list(mask.shape)} or {[*mask.shape, 1]}, as the mask is"
    require(given.shape in (mask.shape, (*mask.shape, 1)), name, rule, list(given.shape))


def check_offsets(name: str, given: Tensor, mask: Tensor) -> None:
    """Refuse offsets that do not fit the mask."""
    rule = f"must be {[*mask.shape, 2]}, as the mask is {list(mask.shape)}"
    require(given.shape == (*mask.shape, 2), name, rule, list(given.shape))
