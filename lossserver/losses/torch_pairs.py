"""The losses of torch.nn that compare two or three things, under the scope torch."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.torch_nn import Alike, Vectors, numbers
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.MarginRankingLoss")
@dataclass(frozen=True, kw_only=True)
class MarginRankingLoss(Alike):
    """Two scores, of which the right one must be the larger, by a margin.

    ℓ = max(0, m - y (pred - target))

    Parameters:
        margin: m.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: torch's input1, scores, float, of any shape.
        target: torch's input2, scores, numbers shaped like pred.
        y: torch's target: 1 where pred should be larger, -1 where target should;
            numbers shaped like pred, or one number for all.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        PyTorch, `torch.nn.MarginRankingLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "y"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "y")

    margin: float = 0.0

    def fit(
        self, pred: Tensor, target: Tensor, y: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        inputs, shape = super().fit(pred=pred, target=target)
        numbers("y", y)
        if y.shape != pred.shape and not (y.numel() == 1 and y.dim() <= pred.dim()):
            rule = f"must be shaped like pred, {list(shape)}, or one number"
            raise RefusedError("y", rule, list(y.shape))
        return {**inputs, "y": y}, shape

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        return inputs["y"].shape == inputs["pred"].shape and super().aligned(inputs)

    def formula(self, pred: Tensor, target: Tensor, y: Tensor) -> Tensor:
        return (self.margin - y * (pred - target)).clamp(min=0)


@LOSSES.register_as("torch.CosineEmbeddingLoss")
@dataclass(frozen=True, kw_only=True)
class CosineEmbeddingLoss(Vectors):
    """Two vectors, turned to each other or away.

    ℓ = 1 - cos(pred, target) where y = 1;  max(0, cos(pred, target) - m) where y = -1

    Parameters:
        margin: m, the cosine that is far enough; usually in 0..0.5.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: torch's input1, float [N, D], or [D] of a lone row.
        target: torch's input2, numbers shaped like pred.
        y: torch's target, 1 or -1, numbers [N], or [] of a lone row; any other is
            a row that counts nothing.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [N]. Squared lengths have 1e-12 added.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        PyTorch, `torch.nn.CosineEmbeddingLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "y"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "y")

    margin: float = 0.0

    def fit(
        self, pred: Tensor, target: Tensor, y: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() in (1, 2), "pred", "must be [N, D] or [D]", list(pred.shape))
        inputs, shape = super().fit(pred=pred, target=target)
        numbers("y", y)
        require(y.shape == shape, "y", f"must be one number a row, {list(shape)}", list(y.shape))
        return {**inputs, "y": y}, shape

    def formula(self, pred: Tensor, target: Tensor, y: Tensor) -> Tensor:
        return F.cosine_embedding_loss(
            pred, target.to(pred.dtype), y, margin=self.margin, reduction="none"
        )


@dataclass(frozen=True, kw_only=True)
class Triplet(Vectors):
    """A loss of an anchor (pred), a positive (target) and a negative."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "negative"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "negative")

    margin: float = 1.0
    swap: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.margin > 0, "margin", "must be above 0", self.margin)

    @abstractmethod
    def distance(self, left: Tensor, right: Tensor) -> Tensor:
        """Of vectors along the last dimension."""

    def formula(self, pred: Tensor, target: Tensor, negative: Tensor) -> Tensor:
        target, negative = target.to(pred.dtype), negative.to(pred.dtype)
        far = self.distance(pred, negative)
        if self.swap:
            far = torch.minimum(far, self.distance(target, negative))
        return (self.margin + self.distance(pred, target) - far).clamp(min=0)


@LOSSES.register_as("torch.TripletMarginLoss")
@dataclass(frozen=True, kw_only=True)
class TripletMarginLoss(Triplet):
    """An anchor that must be nearer to its positive than to its negative, by a margin.

    ℓ = max(0, d(anchor, positive) - d(anchor, negative) + m),  d(x, y) = ‖x - y + ε‖_p

    Parameters:
        margin: m > 0.
        p: of the norm.
        eps: ε, added to each element of the difference.
        swap: for d(anchor, negative) take d(positive, negative) if that is less.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: anchor, float [..., D].
        target: positive, numbers shaped like pred.
        negative: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [...], in units of pred.

    Raises:
        ValueError: margin ≤ 0, or shapes that differ.

    Source:
        Balntas et al., Learning Local Feature Descriptors with Triplets and
        Shallow Convolutional Neural Networks, 2016, BMVC. PyTorch,
        `torch.nn.TripletMarginLoss`.
    """

    p: float = 2.0
    eps: float = 1e-6

    def distance(self, left: Tensor, right: Tensor) -> Tensor:
        """‖left - right + ε‖_p."""
        return F.pairwise_distance(left, right, p=self.p, eps=self.eps)


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - cos, along the last dimension."""
    return 1 - F.cosine_similarity(left, right, dim=-1)


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """The sum of squares, along the last dimension."""
    return (left - right).square().sum(-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "euclidean": F.pairwise_distance,
    "squared_euclidean": squared_distance,
    "manhattan": partial(F.pairwise_distance, p=1.0),
    "chebyshev": partial(F.pairwise_distance, p=math.inf),
    "cosine": cosine_distance,
}


@LOSSES.register_as("torch.TripletMarginWithDistanceLoss")
@dataclass(frozen=True, kw_only=True)
class TripletMarginWithDistanceLoss(Triplet):
    """An anchor that must be nearer to its positive than to its negative, in a distance of choice.

    ℓ = max(0, d(anchor, positive) - d(anchor, negative) + m)

    Parameters:
        distance_function: d, by name where torch takes a function. "euclidean" is
            torch's default; it, "manhattan" and "chebyshev" are of differences with
            1e-6 added, as torch's PairwiseDistance. Or "squared_euclidean", or
            "cosine", 1 - cos.
        margin: m > 0.
        swap: for d(anchor, negative) take d(positive, negative) if that is less.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: anchor, float [..., D].
        target: positive, numbers shaped like pred.
        negative: numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [...], in units of d.

    Raises:
        ValueError: margin ≤ 0, another distance, or shapes that differ.

    Source:
        Balntas et al., 2016, as TripletMarginLoss. PyTorch,
        `torch.nn.TripletMarginWithDistanceLoss`.
    """

    distance_function: Literal[
        "euclidean", "squared_euclidean", "manhattan", "chebyshev", "cosine"
    ] = "euclidean"

    def distance(self, left: Tensor, right: Tensor) -> Tensor:
        """The distance of that name."""
        return DISTANCES[self.distance_function](left, right)
