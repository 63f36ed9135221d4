"""Losses of a difference, element by element: boxes, offsets, maps."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lossserver.losses.cotangent import broadcast, weighted
from lossserver.losses.rows import Call, Elementwise, Rows, tensor_of
from lossserver.registry import LOSSES, RefusedError


@dataclass(frozen=True, kw_only=True)
class Difference(Elementwise):
    """A loss with two short cuts of MMDetection 3.

    An empty target makes the loss Σ pred · 0, a scalar whatever the reduction,
    and pred's shape is not looked at. Where a weight is given and none of it
    is above 0, the loss is Σ pred · weight, again a scalar, and nothing else is
    looked at: not loss_weight, not avg_factor, not the reduction. (Weights of 0
    make that 0; negative ones do not.)
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        refuse_bool(target)
        return (target, ()) if target.numel() == 0 else super().fit(pred, target)

    def aligned(self, pred: Tensor, target: Tensor) -> bool:
        return target.numel() > 0 and super().aligned(pred, target)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return pred.sum() * 0 if target.numel() == 0 else self.of_difference(pred - target)

    @abstractmethod
    def of_difference(self, difference: Tensor) -> Tensor:
        """ℓ, shaped like `difference`, pred - target."""

    def rows(self, call: Call) -> Rows | None:
        return None if self._weighs_nothing(call) else super().rows(call)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        if not self._weighs_nothing(call):
            return super().outputs(call)
        pred, weight = tensor_of(call, "pred"), tensor_of(call, "weight")
        if pred.dim() == weight.dim() + 1:
            weight = weight.unsqueeze(1)
        broadcast("weight", weight, tuple(pred.shape), "pred")
        return {"loss": weighted(pred, weight).sum()}

    def _weighs_nothing(self, call: Call) -> bool:
        if call.inputs.get("weight") is None:
            return False
        return not torch.any(tensor_of(call, "weight") > 0)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class L1Loss(Difference):
    """Absolute error.

    ℓ = |pred - target|

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...]; the gradient where pred equals target is 0.
        target: shaped like pred.
        weight: broadcasts with pred: [N, ...], [N, 1], a scalar. An [N] weight
            of [N, 4] boxes is refused, unless N is 4 and it weighs coordinates.

    Returns:
        Unreduced float [N, ...], in units of pred. Where no weight is above 0 a
        scalar, Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: target not shaped like pred, or a weight that does not broadcast.

    Source:
        MMDetection 3.3.0, `L1Loss`.
    """

    def of_difference(self, difference: Tensor) -> Tensor:
        return difference.abs()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SmoothL1Loss(Difference):
    """Squared error near zero, absolute error beyond: robust to outliers.

    ℓ = d² / (2β) where d < β, else d - β/2;  d = |pred - target|      (eq. 3, at β = 1)

    Parameters:
        beta: where the square ends, β > 0, in units of pred.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...].
        target: shaped like pred.
        weight: as of L1Loss.

    Returns:
        Unreduced float [N, ...], in units of pred. Where no weight is above 0 a
        scalar, Σ pred · weight, whatever the reduction.

    Raises:
        ValueError: beta ≤ 0, target not shaped like pred, or a weight that does
            not broadcast.

    Source:
        Girshick, Fast R-CNN, 2015, arXiv:1504.08083, eq. 3. Same values as
        MMDetection 3.3.0 `SmoothL1Loss`.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise RefusedError("beta", "must be above 0", self.beta)

    def of_difference(self, difference: Tensor) -> Tensor:
        d = difference.abs()
        return torch.where(d < self.beta, 0.5 * d * d / self.beta, d - 0.5 * self.beta)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class MSELoss(Elementwise):
    """Squared error.

    ℓ = (pred - target)²

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...].
        target: broadcasts with pred, as upstream lets it.
        weight: broadcasts with the loss: [N, ...], [N, 1], a scalar.

    Returns:
        Unreduced float [N, ...], in units of pred squared. The mean of nothing
        is NaN.

    Raises:
        ValueError: target or weight does not broadcast.

    Source:
        MMDetection 3.3.0, `MSELoss`.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        refuse_bool(target)
        return target, broadcast("target", target, tuple(pred.shape), "pred")

    def aligned(self, pred: Tensor, target: Tensor) -> bool:
        return pred.shape == target.shape and super().aligned(pred, target)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square()


def refuse_bool(target: Tensor) -> None:
    """Refuse truth values, which cannot be subtracted."""
    if target.dtype is torch.bool:
        raise RefusedError("target", "must hold numbers", "bool")
