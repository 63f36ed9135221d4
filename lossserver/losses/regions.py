"""Regions of an image: what the losses over segmentation masks share.

A row is an image, and its prediction is one region or one a class:

    mode          pred              regions                  target
    binary        [N, ...]          one, σ(pred)             mask
                  or [N, 1, ...]
    multiclass    [N, C, ...]       C, softmax over C        class indices, or C masks
    multilabel    [N, C, ...]       C, each σ(pred)          class indices, or C masks

Formulas read all of them as [N, C, M]: M pixels, and C of 1 for one region.
"""

from typing import Literal

import torch
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import require
from lossserver.registry import RefusedError

Mode = Literal["binary", "multiclass", "multilabel"]


def refuse_shape(pred: Tensor, mode: Mode) -> None:
    """Refuse a prediction that is not rows of one or more pixels, with classes unless binary."""
    least, wanted = (2, "[N, ...]") if mode == "binary" else (3, "[N, C, ...]")
    shape = list(pred.shape)
    require(pred.dim() >= least, "pred", f"must be {wanted} to be {mode}", shape)
    require(not len(pred) or pred.numel() > 0, "pred", "must have at least one pixel a row", shape)


def fit_regions(
    pred: Tensor, target: Tensor, mode: Mode, ignored: int | None = None, *, soft: bool = False
) -> Tensor:
    """The target: class indices as int64 [N, ...], masks as they are.

    Parameters:
        pred: as `refuse_shape` lets it pass.
        target: in one of the forms above.
        mode: as above.
        ignored: a number that neither a class index nor a mask must be in range for.
        soft: masks may be floating point, in [0, 1].

    Raises:
        RefusedError: a target that does not fit.
    """
    whole = (pred.shape[0], *pred.shape[2:])
    if mode != "binary" and target.shape == whole:
        _refuse_beyond(target, pred.shape[1] - 1, f"in 0..{pred.shape[1] - 1}", ignored)
        return labels_of(target)
    masks = {tuple(pred.shape)} | ({whole} if mode == "binary" and pred.shape[1] == 1 else set())
    if tuple(target.shape) not in masks:
        forms = [f"masks {list(shape)}" for shape in sorted(masks)]
        if mode != "binary":
            forms.append(f"class indices {list(whole)}")
        rule = f"must be {' or '.join(forms)} for {mode} pred {list(pred.shape)}"
        raise RefusedError("target", rule, list(target.shape))
    if soft and target.is_floating_point():
        _refuse_no_share(target, ignored)
    else:
        _refuse_beyond(target, 1, "0 or 1 in a mask", ignored)
    return target


def _refuse_no_share(target: Tensor, ignored: int | None) -> None:
    wrong, also = (target < 0) | (target > 1), ""
    if ignored is not None:
        wrong, also = wrong & (target != ignored), f", or {ignored} to be ignored"
    require(
        not wrong.any(),
        "target",
        f"a soft mask must be in [0, 1]{also}",
        target[wrong][:1].tolist(),
    )


def _refuse_beyond(target: Tensor, most: int, allowed: str, ignored: int | None) -> None:
    if target.dtype is torch.bool:
        return
    target = labels_of(target)
    if ignored is not None:
        target, allowed = target[target != ignored], f"{allowed}, or {ignored} to be ignored"
    refuse_outside(target, 0, most, allowed)


def probabilities(
    pred: Tensor, mode: Mode, *, activated: bool, left_out: Tensor | None = None
) -> Tensor:
    """The probability [N, C, M] of each pixel to be of each region, and 0 where that is left out."""
    pred = by_region(pred, mode)
    if left_out is not None:
        # Before the activation, whose slope at a NaN is NaN, wanted or not; but softmax mixes a
        # pixel's classes, and while one of them counts it reads them all.
        unread = left_out.all(1, keepdim=True) if mode == "multiclass" else left_out
        pred = pred.masked_fill(unread, 0)
    if not activated:
        pred = pred.softmax(1) if mode == "multiclass" else pred.sigmoid()
    return pred if left_out is None else pred.masked_fill(left_out, 0)


def by_region(tensor: Tensor, mode: Mode) -> Tensor:
    """[N, C, M] of predictions, or of masks."""
    return tensor.flatten(1).unsqueeze(1) if mode == "binary" else tensor.flatten(2)


def masks_of(target: Tensor, pred: Tensor, mode: Mode) -> Tensor:
    """The target as masks [N, C, M], of whatever type: 1 or true in the region."""
    if mode == "binary" or target.dim() == pred.dim():
        return by_region(target, mode)
    if not target.numel():
        return by_region(pred, mode) > 0  # and no arange of a number of classes that cost no byte
    classes = torch.arange(pred.shape[1], device=pred.device).unsqueeze(1)
    return target.flatten(1).unsqueeze(1) == classes


def void(target: Tensor, pred: Tensor, mode: Mode, ignored: int | None) -> Tensor | None:
    """Which pixels count nothing: [N, C, M] for masks, [N, 1, M] for class indices."""
    if ignored is None:
        return None
    if mode == "binary" or target.dim() < pred.dim():
        return (target == ignored).flatten(1).unsqueeze(1)
    return (target == ignored).flatten(2)


def class_mean(losses: Tensor, present: Tensor | None) -> Tensor:
    """The mean [N] over classes of [N, C]: of all, or of those present, and 0 where none is."""
    if present is None:
        return losses.mean(1)
    return losses.masked_fill(~present, 0).sum(1) / present.sum(1).clamp(min=1)
