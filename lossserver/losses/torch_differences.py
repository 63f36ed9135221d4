"""The losses of torch.nn of a difference, under the scope torch."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.torch_nn import Alike
from lossserver.registry import LOSSES


@LOSSES.register_as("torch.L1Loss")
@dataclass(frozen=True, kw_only=True)
class L1Loss(Alike):
    """Absolute error, as torch has it.

    ℓ = |pred - target|

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: float, of any shape; the gradient where pred equals target is 0.
        target: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units.

    Raises:
        ValueError: target not shaped like pred, where torch warns and broadcasts.

    Source:
        PyTorch, `torch.nn.L1Loss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).abs()


@LOSSES.register_as("torch.MSELoss")
@dataclass(frozen=True, kw_only=True)
class MSELoss(Alike):
    """Squared error, as torch has it.

    ℓ = (pred - target)²

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: float, of any shape.
        target: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units squared.

    Raises:
        ValueError: target not shaped like pred, where torch warns and broadcasts.

    Source:
        PyTorch, `torch.nn.MSELoss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square()


@LOSSES.register_as("torch.SmoothL1Loss")
@dataclass(frozen=True, kw_only=True)
class SmoothL1Loss(Alike):
    """Squared error near zero, absolute error beyond, as torch has it.

    ℓ = d² / (2β) where d < β, else d - β/2;  d = |pred - target|

    Parameters:
        beta: where the square ends, β ≥ 0, in units of pred. At 0 this is L1Loss.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: float, of any shape.
        target: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units.

    Raises:
        ValueError: beta < 0, or target not shaped like pred, where torch warns and broadcasts.

    Source:
        Girshick, Fast R-CNN, 2015, arXiv:1504.08083, eq. 3 (β = 1). PyTorch,
        `torch.nn.SmoothL1Loss`.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta >= 0, "beta", "must be at least 0", self.beta)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        target = target.to(pred.dtype)
        if self.beta < 1e-30:  # as good as 0, and β d would lose its digits in float32
            return F.l1_loss(pred, target, reduction="none")
        # Of torch's smooth_l1_loss a fused kernel would make a slope of 0 where pred is NaN.
        return F.huber_loss(pred, target, delta=self.beta, reduction="none") / self.beta


@LOSSES.register_as("torch.HuberLoss")
@dataclass(frozen=True, kw_only=True)
class HuberLoss(Alike):
    """Huber's loss: a square near zero whose slope then stays.

    ℓ = d² / 2 where d < δ, else δ (d - δ/2);  d = |pred - target|

    Parameters:
        delta: where the square ends, δ > 0, in units of pred.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: float, of any shape.
        target: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units squared.

    Raises:
        ValueError: delta ≤ 0, or target not shaped like pred, where torch warns and broadcasts.

    Source:
        Huber, Robust Estimation of a Location Parameter, 1964, Annals of
        Mathematical Statistics 35(1). PyTorch, `torch.nn.HuberLoss`.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.delta > 0, "delta", "must be above 0", self.delta)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(pred, target.to(pred.dtype), delta=self.delta, reduction="none")
