"""Margin softmax losses: the angle to the own class's centre must win by a margin."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossserver.losses.classes import refuse_outside
from lossserver.losses.loss import refuse_pairs, require
from lossserver.losses.vectors import Fitted, VectorLoss, cosines, entropy, fit_labels, fit_vectors
from lossserver.registry import LOSSES

#: What a cosine may be over 1: bfloat16 rounds by 0.4 %.
ROUNDING = 0.01


@dataclass(frozen=True, kw_only=True)
class MarginSoftmax(VectorLoss):
    """Softmax cross entropy of s · cosines, that of the own class made smaller by a margin m.

    Computed alone, although cosines would make independent rows: vectors and
    centres do not, and one loss makes one promise.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "centers"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "centers")

    s: float = 64.0
    m: float = 0.5

    def fit(self, pred: Tensor, target: Tensor, centers: Tensor | None = None) -> Fitted:
        fit_vectors(pred, "pred")
        rows, classes = pred.shape
        inputs = {"pred": pred}
        if centers is None:
            beyond = pred[pred.abs() > 1 + ROUNDING].flatten()[:1].tolist()
            require(not beyond, "pred", "without centers must be cosines, in [-1, 1]", beyond)
        else:
            fit_vectors(centers, "centers", pred.shape[1])
            inputs["centers"] = centers
            classes = len(centers)
            refuse_pairs(rows * classes, "vectors and centers")
        labels = fit_labels(target, (rows,))
        refuse_outside(labels, 0, classes - 1, f"in 0..{classes - 1}")
        return {**inputs, "target": labels}, (rows,)

    def formula(self, pred: Tensor, target: Tensor, centers: Tensor | None = None) -> Tensor:
        cosine = pred if centers is None else cosines(pred, centers)
        own = target.unsqueeze(1)
        lessened = cosine.scatter(1, own, self.lessened(cosine.gather(1, own)))
        return entropy(self.s * lessened, target)

    @abstractmethod
    def lessened(self, cosine: Tensor) -> Tensor:
        """The cosine of the own class, less the margin."""


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ArcFaceLoss(MarginSoftmax):
    """Additive angular margin loss, for recognising faces.

    ℓ = -log exp(s cos(θ_y + m)) / (exp(s cos(θ_y + m)) + Σ_{j ≠ y} exp(s cos θ_j))   (eq. 3)

    Parameters:
        s: scale of the cosines, s > 0.
        m: margin of the angle, radians in [0, π].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: embeddings, float [N, D], where centers are sent; each is divided
            by max(‖x‖, 1e-12). Otherwise cosines cos θ_j, float [N, C] in [-1, 1].
        target: class index, integer [N], in 0..C-1.
        centers: the classes' centres, float [C, D], each divided by its norm
            too. Their gradient comes where wrt names them.
        weight: [N].

    Returns:
        Unreduced float [N], in nats. Where θ_y + m is over π, where the cosine
        would rise again, cos θ_y - m sin m stands for it, as in the authors'
        code. sin θ counts as no less than √ε of the dtype, so that an embedding
        on its centre has a finite gradient.

    Raises:
        ValueError: s ≤ 0, m outside [0, π], a class index or cosine out of
            range, shapes that do not fit, or over 2²⁶ vectors times centres.

    Source:
        Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face
        Recognition, 2019, arXiv:1801.07698, eq. 3.
    """

    m: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_scale(self.s)
        require(0 <= self.m <= math.pi, "m", "must be in [0, π]", self.m)

    def lessened(self, cosine: Tensor) -> Tensor:
        squared = (1 - cosine) * (1 + cosine)
        sine = squared.clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
        turned = cosine * math.cos(self.m) - sine * math.sin(self.m)
        over = cosine < -math.cos(self.m)  # θ > π - m
        return torch.where(over, cosine - self.m * math.sin(self.m), turned)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CosFaceLoss(MarginSoftmax):
    """Large margin cosine loss, for recognising faces.

    ℓ = -log exp(s (cos θ_y - m)) / (exp(s (cos θ_y - m)) + Σ_{j ≠ y} exp(s cos θ_j))   (eq. 4)

    Parameters:
        s: scale of the cosines, s > 0.
        m: margin of the cosine, m ≥ 0.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: embeddings, float [N, D], where centers are sent; each is divided
            by max(‖x‖, 1e-12). Otherwise cosines cos θ_j, float [N, C] in [-1, 1].
        target: class index, integer [N], in 0..C-1.
        centers: the classes' centres, float [C, D], each divided by its norm
            too. Their gradient comes where wrt names them.
        weight: [N].

    Returns:
        Unreduced float [N], in nats.

    Raises:
        ValueError: s ≤ 0, m < 0, a class index or cosine out of range, shapes
            that do not fit, or over 2²⁶ vectors times centres.

    Source:
        Wang et al., CosFace: Large Margin Cosine Loss for Deep Face
        Recognition, 2018, arXiv:1801.09414, eq. 4.
    """

    m: float = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_scale(self.s)
        require(self.m >= 0, "m", "must be at least 0", self.m)

    def lessened(self, cosine: Tensor) -> Tensor:
        return cosine - self.m


def refuse_scale(s: float) -> None:
    """Refuse a scale that is not above 0."""
    require(s > 0, "s", "must be above 0", s)
