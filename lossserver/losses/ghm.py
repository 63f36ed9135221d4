"""Gradient harmonised losses: an element counts by how rare a gradient as long as its own is."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.losses.classes import labels_of, one_hot, sigmoid_entropy
from lossserver.losses.loss import Call, floating, require, tensor_of
from lossserver.losses.remember import RememberingLoss
from lossserver.registry import LOSSES

Inputs = tuple[Tensor, Tensor, Tensor]

#: Bins of a histogram, which the config alone asks for. The paper's is of 30, configs have 10.
MAX_BINS = 4096


@dataclass(frozen=True, kw_only=True)
class Harmonised(RememberingLoss):
    """A formula of single elements, each weighted by the histogram of all gradients.

    Class attributes:
        END: the upper edge of the histogram's last bin; the others are float32 k / bins.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "weight"})
    TAKES: ClassVar[frozenset[str]] = frozenset()
    END: ClassVar[float]

    bins: int = 10
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.bins <= MAX_BINS, "bins", f"must be in 1..{MAX_BINS}", self.bins)
        require(0 <= self.momentum < 1, "momentum", "must be in [0, 1)", self.momentum)

    @property
    def remembers(self) -> bool:
        return self.momentum > 0

    def initial(self) -> dict[str, Tensor]:
        return {"acc_sum": torch.zeros(self.bins)}

    @abstractmethod
    def fit(self, pred: Tensor, target: Tensor, weight: Tensor) -> Inputs:
        """The inputs, of one shape. Raises RefusedError if they do not fit together."""

    @abstractmethod
    def formula(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ, and the length of its gradient, in [0, 1]."""

    @abstractmethod
    def total(self, weight: Tensor) -> Tensor:
        """The number of elements that count."""

    def check(self, call: Call) -> None:
        pred, _, _ = self._fitted(call)
        reduction = self.reduction_of(call)
        where = "config.reduction" if call.reduction_override is None else "reduction_override"
        require(reduction in ("mean", "none"), where, 'must be "mean" or "none"', reduction)
        self.ends(replace(call, avg_factor=1.0), tuple(pred.shape))
        if self.remembers:
            self.state_of(call)

    def step(self, call: Call) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        pred, target, weight = self._fitted(call)
        rows, length = self.formula(pred, target)
        counted = weight > 0
        total = self.total(weight.detach()).double().clamp(min=1)
        bins, count = self._histogram(length, counted)
        state = self._average(count, self.state_of(call)) if self.remembers else None
        size = count.double() if state is None else state["acc_sum"]
        harmony = _by_rarity(bins, count > 0, size, total, rows.dtype)
        # An element without a bin has weight 0, but one of NaN must not be lost so.
        harmony = harmony.masked_fill(counted & (pred.isnan() | target.isnan()), torch.nan)
        # Upstream reads a number back once a bin; this is the only time that the device is waited for.
        own = replace(call, avg_factor=float(total))
        return {"loss": self.ends(own, tuple(pred.shape), weight=harmony).value(rows)}, state

    def _fitted(self, call: Call) -> Inputs:
        pred = floating(tensor_of(call, "pred"), "pred")
        return self.fit(pred, tensor_of(call, "target"), tensor_of(call, "weight"))

    def _histogram(self, length: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """The bin of each element, `bins` where it has none or does not count; each bin's count."""
        # On the CPU: CUDA would round the quotients otherwise.
        edges = torch.arange(self.bins + 1).float() / self.bins
        edges[-1] = self.END
        found = torch.bucketize(length.detach(), edges.to(length), right=True) - 1
        found = found.masked_fill(~counted, self.bins)
        count = found.new_zeros(self.bins + 1)
        count.scatter_add_(0, found.flatten(), torch.ones_like(found).flatten())
        return found, count[:-1]

    def _average(self, count: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The next state: a bin that is empty now keeps its average."""
        news = (count.double() * (1 - self.momentum)).float()
        moved = self.momentum * state["acc_sum"] + news
        return {"acc_sum": torch.where(count > 0, moved, state["acc_sum"])}


def _by_rarity(
    bins: Tensor, filled: Tensor, size: Tensor, total: Tensor, dtype: torch.dtype
) -> Tensor:
    """total / (the size of its bin · the number of filled bins) of each element; 0 without a bin."""
    # Upstream takes the reciprocal first, too, which rounds otherwise than a division.
    rarity = torch.where(filled, size.reciprocal() * total, 0).to(dtype)
    return torch.cat([rarity, rarity.new_zeros(1)])[bins] / filled.sum().clamp(min=1)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GHMC(Harmonised):
    """Gradient harmonised cross entropy: common lengths of gradients count less, outliers too.

    ℓ = β(g) BCE(pred, target),    g = |σ(pred) - target|
    β(g) = N / (R(g) M)

    N is the number of elements that count, R(g) how many of them are in the
    bin of g, and M the number of bins that are not empty. With a momentum α,
    R is its moving average S ← α S + (1 - α) R.

    Parameters:
        reduction: "mean" or "none"; "sum" is refused in the call. The mean is
            over N, whatever avg_factor the call brings.
        loss_weight: factor of the result.
        bins: of the histogram of g over [0, 1], 1 to 4,096.
        momentum: α in [0, 1). Above 0 the loss remembers: acc_sum, float32
            [bins], zeros before the first call.
        use_sigmoid: must be true; upstream has no other form.

    Inputs:
        pred: logits, float [N, C], or any shape with a target shaped like it.
        target: class index, integer [N], those outside 0..C-1 being background;
            or truth, 0 to 1, shaped like pred.
        weight: an element counts where it is above 0, and by how much does not
            matter: [N] for class indices, else shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in nats. β has no gradient. Where
        nothing counts it is 0.

    Raises:
        ValueError: a parameter out of range, reduction "sum", shapes that do not
            fit, or a state that is not of `bins` numbers.

    Source:
        Li et al., Gradient Harmonized Single-stage Detector, 2018,
        arXiv:1811.05181, GHM-C. Same values as MMDetection 3.3.0 `GHMC`.
    """

    END: ClassVar[float] = 1 + 1e-6

    use_sigmoid: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.use_sigmoid, "use_sigmoid", "must be true: there is no softmax form", False)

    def fit(self, pred: Tensor, target: Tensor, weight: Tensor) -> Inputs:
        _refuse_unlike(weight, "weight", target, "target")
        if target.shape == pred.shape:
            return pred, target.to(pred.dtype), weight
        require(
            pred.dim() == 2 and target.shape == pred.shape[:1],
            "target",
            f"must be [N] class indices of pred [N, C], or shaped like pred, {list(pred.shape)}",
            list(target.shape),
        )
        return pred, one_hot(labels_of(target), pred), weight.unsqueeze(1).expand_as(pred)

    def formula(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return sigmoid_entropy(pred, target), (pred.sigmoid() - target).abs()

    def total(self, weight: Tensor) -> Tensor:
        return (weight > 0).sum()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GHMR(Harmonised):
    """Gradient harmonised regression: a smooth L1 whose outliers and easy hits count less.

    ℓ = β(g) (√(d² + μ²) - μ),    d = pred - target,    g = |d| / √(d² + μ²)
    β(g) = N / (R(g) M)

    with R and M as in GHMC.

    Parameters:
        reduction: "mean" or "none"; "sum" is refused in the call. The mean is
            over N, whatever avg_factor the call brings.
        loss_weight: factor of the result.
        bins: of the histogram of g over [0, 1], 1 to 4,096.
        momentum: α in [0, 1), as in GHMC.
        mu: μ ≥ 0, where the parabola turns into a line, in units of pred. At 0
            the gradient where pred equals target is NaN, as upstream.

    Inputs:
        pred: float [N, ...], such as box offsets [N, 4].
        target: shaped like pred.
        weight: shaped like pred. An element counts where it is above 0, and
            by how much does not matter; but N is the sum of all weights, as
            upstream, where GHMC counts them.

    Returns:
        Unreduced float, shaped like pred, in units of pred. β has no gradient.
        Where nothing counts it is 0.

    Raises:
        ValueError: a parameter out of range, reduction "sum", shapes that do not
            fit, or a state that is not of `bins` numbers.

    Source:
        Li et al., Gradient Harmonized Single-stage Detector, 2018,
        arXiv:1811.05181, GHM-R. Same values as MMDetection 3.3.0 `GHMR`.
    """

    END: ClassVar[float] = 1e3

    mu: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mu >= 0, "mu", "must be at least 0", self.mu)

    def fit(self, pred: Tensor, target: Tensor, weight: Tensor) -> Inputs:
        _refuse_unlike(target, "target", pred, "pred")
        _refuse_unlike(weight, "weight", pred, "pred")
        return pred, target.to(pred.dtype), weight

    def formula(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        d = pred - target
        root = (d * d + self.mu * self.mu).sqrt()
        # √(d² + μ²) - μ, without its cancellation where d is small.
        return d * d / (root + self.mu), d.abs() / root

    def total(self, weight: Tensor) -> Tensor:
        return weight.sum()


def _refuse_unlike(tensor: Tensor, name: str, other: Tensor, of: str) -> None:
    given, wanted = list(tensor.shape), list(other.shape)
    require(given == wanted, name, f"must be shaped like {of}, {wanted}", given)
