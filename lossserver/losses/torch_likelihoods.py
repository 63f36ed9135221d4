"""The losses of torch.nn from distributions, under the scope torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.cotangent import REDUCTIONS
from lossserver.losses.loss import Call, floating, require
from lossserver.losses.rows import Elementwise, Exact
from lossserver.losses.torch_nn import Alike, numbers
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.PoissonNLLLoss")
@dataclass(frozen=True, kw_only=True)
class PoissonNLLLoss(Alike):
    """Negative log-likelihood of counts under a Poisson distribution.

    log_input:  ℓ = exp(pred) - t pred
    otherwise:  ℓ = pred - t log(pred + ε)
    full:       + t log t - t + log(2πt) / 2 where t > 1 (Stirling's log t!)

    Parameters:
        log_input: pred is the log of the rate, not the rate.
        full: add the term of t alone.
        eps: ε, which keeps a rate of 0 from the logarithm; not read if log_input.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: (log of the) expected count, float, of any shape.
        target: counts t, numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in nats; less than 0 for large counts
        unless full. NaN for a rate below -ε.

    Raises:
        ValueError: target not shaped like pred.

    Source:
        PyTorch, `torch.nn.PoissonNLLLoss`.
    """

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        if self.log_input:
            entropy = pred.exp() - target * pred
        else:
            entropy = pred - target * (pred + self.eps).log()
        if not self.full:
            return entropy
        # Clamped, so that the branch not taken has a finite slope in the target.
        t = target.to(pred.dtype).clamp(min=1)
        stirling = t * t.log() - t + 0.5 * (2 * math.pi * t).log()
        return entropy + torch.where(target > 1, stirling, 0)


@LOSSES.register_as("torch.GaussianNLLLoss")
@dataclass(frozen=True, kw_only=True)
class GaussianNLLLoss(Exact, Elementwise):
    """Negative log-likelihood under a normal distribution of given mean and variance.

    ℓ = (log v + (pred - target)² / v) / 2, v = max(var, ε)
    full:  + log(2π) / 2

    Parameters:
        full: add the constant term.
        eps: ε, least variance. A smaller one keeps the slope that it would have at ε.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: expected values, float, of any shape [N, ...].
        target: values, numbers shaped like pred, where a dimension may be 1.
        var: variances ≥ 0, float: shaped like pred, where a dimension may be 1;
            without its last dimension; or one number, [].
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in nats, with -log of the unit of pred.

    Raises:
        ValueError: a variance below 0, eps ≤ 0, or shapes that do not fit.

    Source:
        Nix & Weigend, Estimating the Mean and Variance of the Target Probability
        Distribution, 1994, ICNN. PyTorch, `torch.nn.GaussianNLLLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "var"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "var")

    full: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.eps > 0, "eps", "must be above 0", self.eps)

    def fit(
        self, pred: Tensor, target: Tensor, var: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        numbers("target", target)
        if not _stretches(target, pred):
            rule = f"must be shaped like pred, {list(pred.shape)}, or 1 in a dimension"
            raise RefusedError("target", rule, list(target.shape))
        floating(var, "var")
        if not _stretches(var, pred) and var.dim() and var.shape != pred.shape[:-1]:
            rule = f"must be shaped like pred, {list(pred.shape)}, or 1 in a dimension, or [N]"
            raise RefusedError("var", rule, list(var.shape))
        below = var[var < 0]
        if len(below):
            raise RefusedError("var", "must be at least 0", float(below[0]))
        return {"pred": pred, "target": target, "var": var}, tuple(pred.shape)

    def formula(self, pred: Tensor, target: Tensor, var: Tensor) -> Tensor:
        if var.dim() < pred.dim():
            var = var.unsqueeze(-1)
        variance = var.clone()
        with torch.no_grad():
            variance.copy_(variance.maximum(var.new_tensor(self.eps)))
        entropy = 0.5 * (variance.log() + (pred - target).square() / variance)
        return entropy + 0.5 * math.log(2 * math.pi) if self.full else entropy


def _stretches(given: Tensor, pred: Tensor) -> bool:
    """Whether each dimension is that of pred, or 1."""
    pairs = zip(given.shape, pred.shape, strict=False)
    return given.dim() == pred.dim() and all(own in (1, of) for own, of in pairs)


@LOSSES.register_as("torch.KLDivLoss")
@dataclass(frozen=True, kw_only=True)
class KLDivLoss(Alike):
    """Kullback-Leibler divergence of predicted from target probabilities, element by element.

    ℓ = t (log t - pred), 0 where t is 0
    log_target:  ℓ = exp(t) (t - pred)

    Parameters:
        log_target: target holds log-probabilities.
        reduction: "mean", "sum", "none" or "batchmean". A mean divides by the
            number of elements; only batchmean, which divides by N alone, is the
            divergence of the distributions.
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: log-probabilities, float [N, ...].
        target: probabilities t, or their logs, numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in nats.

    Raises:
        ValueError: target not shaped like pred.

    Source:
        Kullback & Leibler, On Information and Sufficiency, 1951, Annals of
        Mathematical Statistics 22(1). PyTorch, `torch.nn.KLDivLoss`.
    """

    log_target: bool = False

    def __post_init__(self) -> None:
        known = (*REDUCTIONS, "batchmean")
        require(
            self.reduction in known,
            "reduction",
            f"must be one of {', '.join(known)}",
            self.reduction,
        )

    def reduction_of(self, call: Call) -> str:
        """As of any loss, where a batchmean is a mean with a divisor of its own."""
        found = super().reduction_of(call)
        return "mean" if found == "batchmean" else found

    def for_call(self, call: Call) -> Self:
        if call.reduction_override is None:
            return self
        return replace(self, reduction=self.reduction_of(call))

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        return float(shape[0]) if self.reduction == "batchmean" and shape else None

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        t = target.to(pred.dtype)
        return F.kl_div(pred, t, reduction="none", log_target=self.log_target)
