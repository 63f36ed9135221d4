"""Losses of a difference, element by element: boxes, offsets, maps."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.losses.cotangent import broadcast
from lossserver.losses.loss import require
from lossserver.losses.rows import Elementwise
from lossserver.losses.shortcut import ShortCut
from lossserver.registry import LOSSES, RefusedError


@dataclass(frozen=True, kw_only=True)
class Difference(Elementwise):
    """A loss of pred - target, and Σ pred · 0 where target is empty.

    That is a scalar whatever the reduction, and pred's shape is not looked at.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_bool(target)
        if target.numel() == 0:
            return {"pred": pred, "target": target}, ()
        return super().fit(pred=pred, target=target)

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        return inputs["target"].numel() > 0 and super().aligned(inputs)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return pred.sum() * 0 if target.numel() == 0 else self.of_difference(pred - target)

    @abstractmethod
    def of_difference(self, difference: Tensor) -> Tensor:
        """ℓ, shaped like `difference`, pred - target."""


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class L1Loss(ShortCut, Difference):
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
class SmoothL1Loss(ShortCut, Difference):
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
class BalancedL1Loss(Difference):
    """Absolute error whose small errors pull more: those of easy samples count.

    ℓ = α/b (bd + 1) log(bd/β + 1) - αd where d < β, else γd + γ/b - αβ
    d = |pred - target|;  b = exp(γ/α) - 1

    Parameters:
        alpha: finite α > 0; less of it makes the gradient of small errors greater.
        gamma: γ, the greatest gradient; above 0, and 1e-9 α to 700 α.
        beta: where the logarithm ends, β > 0, in units of pred. At other than 1,
            the paper's, the gradient jumps there and at d = 0, as upstream.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...]; the gradient where pred equals target is 0.
        target: shaped like pred.
        weight: broadcasts with pred: [N, ...], [N, 1], a scalar. An [N] weight
            of [N, 4] boxes is refused, unless N is 4 and it weighs coordinates.

    Returns:
        Unreduced float [N, ...], in units of pred. Where target is empty a
        scalar 0.

    Raises:
        ValueError: alpha, gamma or beta out of range, target not shaped like
            pred, or a weight that does not broadcast.

    Source:
        Pang et al., Libra R-CNN, 2019, arXiv:1904.02701, section 3.3. Same values
        as MMDetection 3.3.0 `BalancedL1Loss`.
    """

    alpha: float = 0.5
    gamma: float = 1.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.alpha < math.inf, "alpha", "must be above 0 and finite", self.alpha)
        # Beyond, exp(γ/α) is more than a float64 holds; far below, b is 0.
        within = 1e-9 * self.alpha <= self.gamma <= 700 * self.alpha and self.gamma > 0
        require(within, "gamma", "must be at least 1e-9 alpha and at most 700 alpha", self.gamma)
        require(self.beta > 0, "beta", "must be above 0", self.beta)

    def of_difference(self, difference: Tensor) -> Tensor:
        d, b = difference.abs(), math.expm1(self.gamma / self.alpha)
        near = self.alpha / b * (b * d + 1) * torch.log1p(b * d / self.beta) - self.alpha * d
        far = self.gamma * d + self.gamma / b - self.alpha * self.beta
        return torch.where(d < self.beta, near, far)


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

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_bool(target)
        shape = broadcast("target", target, tuple(pred.shape), "pred")
        return {"pred": pred, "target": target}, shape

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        return inputs["pred"].shape == inputs["target"].shape and super().aligned(inputs)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square()


def refuse_bool(target: Tensor) -> None:
    """Refuse truth values, which cannot be subtracted."""
    if target.dtype is torch.bool:
        raise RefusedError("target", "must hold numbers", "bool")
