"""Losses of how far from its boundary a region strays."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lossserver.losses.allowance import with_others
from lossserver.losses.classes import refuse_no_probability
from lossserver.losses.loss import require
from lossserver.losses.regions import (
    Mode,
    fit_regions,
    masks_of,
    probabilities,
    refuse_shape,
)
from lossserver.losses.rows import Exact, RowwiseLoss
from lossserver.registry import LOSSES

#: Regions whose distances one call may ask for. A region of a few pixels takes some 30 µs, so that
#: many take a tenth of a second; larger ones are bounded by the bytes that were sent.
MAX_REGIONS = 1 << 12


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class BoundaryLoss(Exact, RowwiseLoss):
    """Boundary loss: probability, times the signed distance to the boundary where it is.

    ℓ_cq = φ_c(q) p_c(q)                                                 (eq. 5)
    φ_c(q) = distance to c outside of c;  1 - distance to its outside in c

    for each class c and pixel q, distances being Euclidean between pixels, so
    that in c the pixels at the boundary have 0. Its mean is below 0 where
    regions fit.

    Parameters:
        target_form: the target is "distances" φ, or "masks" of which the server
            computes them: a third of a second a million pixels and class
            present, so whoever sees an image again does better to send φ.
        mode: "binary", one region, p = σ(pred); "multiclass", p = softmax(pred)
            over classes; "multilabel", p = σ(pred), a region a class.
        activated: pred holds probabilities, not logits.
        reduction: "mean", "sum" or "none". The mean is over pixels and classes.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C, ...] with one to three dimensions of pixels;
            binary [N, ...] or [N, 1, ...]. Probabilities in [0, 1] if activated.
        target: distances: φ, numbers shaped like pred. Masks: class indices,
            integer [N, ...], in 0..C-1, or masks of 0 and 1 shaped like pred.
            Binary: either is [N, ...].
        weight: broadcasts with the loss; [1, C, 1, 1] chooses classes.

    Returns:
        Unreduced float, shaped like pred, in pixels. From masks, φ is 0 all over
        an image where a class is nowhere or everywhere, since it has no boundary.

    Raises:
        ValueError: a class index, mask or probability out of range, more than
            4,096 regions without distances, or shapes that do not fit.

    Source:
        Kervadec et al., Boundary loss for highly unbalanced segmentation, 2019,
        arXiv:1812.07032, eq. 5; the 1 in φ is of the authors' code, `one_hot2dist`.
    """

    target_form: Literal["distances", "masks"] = "distances"
    mode: Mode
    activated: bool = False

    @property
    def slow(self) -> bool:
        return self.target_form == "masks"

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_shape(pred, self.mode)
        if self.activated:
            refuse_no_probability(pred, "pred")
        if self.target_form == "masks":
            target = self._squared_distances(pred, target)
        else:
            self._refuse_distances(pred, target)
        return {"pred": pred, "target": target}, tuple(pred.shape)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        phi = target.to(pred.dtype).reshape(pred.shape)
        if self.target_form == "masks":
            root = phi.abs().sqrt()
            phi = torch.where(phi < 0, 1 - root, root)
        p = probabilities(pred, self.mode, activated=self.activated).reshape(pred.shape)
        return phi * p

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        # Softmax spreads a pixel's gradient over its classes.
        return zero.all(1, keepdim=True) if self.mode == "multiclass" else zero.reshape(leaf.shape)

    def _refuse_distances(self, pred: Tensor, target: Tensor) -> None:
        alike = [list(pred.shape)]
        if self.mode == "binary" and pred.shape[1] == 1:
            alike.append([pred.shape[0], *pred.shape[2:]])
        rule = f"distances must be {' or '.join(map(str, alike))}"
        require(list(target.shape) in alike, "target", rule, list(target.shape))
        require(target.dtype is not torch.bool, "target", "distances must be numbers", "bool")

    def _squared_distances(self, pred: Tensor, target: Tensor) -> Tensor:
        """Squared distances to the boundary, int64 shaped like pred, below 0 within the region.

        Squared they are whole, and so are not rounded to what pred is made of.
        """
        target = fit_regions(pred, target, self.mode)
        place = pred.shape[1 if self.mode == "binary" and pred.shape[1] > 1 else 2 :]
        rule = "must have one to three dimensions of pixels"
        require(1 <= len(place) <= 3, "pred", rule, list(pred.shape))
        if not len(pred):
            return target.new_zeros(pred.shape, dtype=torch.int64)
        masks = masks_of(target, pred, self.mode).cpu().numpy().astype(bool).reshape(-1, *place)
        squared = np.zeros(masks.shape, np.int64)
        pixels = tuple(range(1, masks.ndim))
        (bounded,) = np.nonzero(masks.any(pixels) & ~masks.all(pixels))
        rule = f"must not have over {MAX_REGIONS} regions; send fewer rows, or their distances"
        count = with_others(len(bounded), "regions")
        require(count <= MAX_REGIONS, "target", rule, count)
        for i in bounded:
            squared[i] = signed_squares(masks[i])
        return torch.from_numpy(squared).reshape(pred.shape).to(pred.device)


def signed_squares(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Squared distance of each pixel to the nearest on the other side; negative within the mask."""
    outside, inside = distance_transform_edt(~mask), distance_transform_edt(mask)
    squared: np.ndarray[Any, Any] = np.rint(outside**2 - inside**2).astype(np.int64)
    return squared
