"""The losses of torch.nn of scores and a margin, under the scope torch."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import require
from lossserver.losses.torch_nn import Alike, Vectors, one_a_class
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.HingeEmbeddingLoss")
@dataclass(frozen=True, kw_only=True)
class HingeEmbeddingLoss(Alike):
    """Distances, made small between what is alike and large between what is not.

    ℓ = pred where y = 1;  max(0, m - pred) where y = -1

    Parameters:
        margin: m, the distance that is far enough.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: distances, float, of any shape.
        target: y, 1 or -1, numbers shaped like pred; another gives the sum of both.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in its units.

    Raises:
        ValueError: target not shaped like pred.

    Source:
        PyTorch, `torch.nn.HingeEmbeddingLoss`.
    """

    margin: float = 1.0

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        far = (self.margin - pred).clamp(min=0)
        return torch.where(target != 1, far, 0) + torch.where(target != -1, pred, 0)


@LOSSES.register_as("torch.MultiMarginLoss")
@dataclass(frozen=True, kw_only=True)
class MultiMarginLoss(Vectors):
    """Hinge loss of one label among classes.

    ℓ = 1/C Σ_{c ≠ y} w_y max(0, m - pred_y + pred_c)^p

    Parameters:
        p: exponent, 1 or 2.
        margin: m.
        weight: a factor w a class; None is 1. A mean divides by N, whatever w.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: scores, float [N, C], or [C] of a lone row.
        target: class index y, integer [N], in 0..C-1; of a lone row [].
        weight: factor of ℓ that broadcasts with it, not of a class; torch has none.

    Returns:
        Unreduced float [N], in units of pred to the p. A NaN gives NaN, where
        torch takes it for no error at all.

    Raises:
        ValueError: a class index out of range, p other than 1 and 2, a weight of
            another length than C, or shapes that do not fit.

    Source:
        Crammer & Singer, On the Algorithmic Implementation of Multiclass
        Kernel-based Vector Machines, 2001, JMLR 2. PyTorch, `torch.nn.MultiMarginLoss`.
    """

    p: int = 1
    margin: float = 1.0
    weight: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.p in (1, 2), "p", "must be 1 or 2", self.p)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_but_scores(pred)
        shape, classes = tuple(pred.shape[:-1]), pred.shape[-1]
        one_a_class("weight", self.weight, classes)
        if target.shape != shape:
            rule = f"must be class indices {list(shape)} of pred {list(pred.shape)}"
            raise RefusedError("target", rule, list(target.shape))
        labels = labels_of(target)
        refuse_outside(labels, 0, classes - 1, f"in 0..{classes - 1}")
        return {"pred": pred, "target": labels}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        y = target.unsqueeze(-1)
        # relu has slope 0 at 0, as torch's own; clamp has not.
        miss = (self.margin - pred.gather(-1, y) + pred).relu().pow(self.p).scatter(-1, y, 0)
        if self.weight is not None:
            miss = miss * pred.new_tensor(self.weight)[y]
        return miss.mean(-1)


@LOSSES.register_as("torch.MultiLabelMarginLoss")
@dataclass(frozen=True, kw_only=True)
class MultiLabelMarginLoss(Vectors):
    """Hinge loss of several labels among classes, each against every class that is none.

    ℓ = 1/C Σ_{y in Y} Σ_{c not in Y} max(0, 1 - pred_y + pred_c)

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: scores, float [N, C], or [C] of a lone row.
        target: labels Y, integer, shaped like pred: class indices in 0..C-1, up
            to the first -1. One that is there twice counts twice.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [N], in units of pred. A NaN gives NaN, where torch
        takes it for no error at all.

    Raises:
        ValueError: a label outside -1..C-1, also after the first -1, or shapes
            that do not fit.

    Source:
        PyTorch, `torch.nn.MultiLabelMarginLoss`.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        refuse_but_scores(pred)
        classes = pred.shape[-1]
        fitted, shape = super().fit(pred=pred, target=target)
        labels = labels_of(target)
        refuse_outside(labels, -1, classes - 1, f"in 0..{classes - 1}, or -1 after the last")
        return {**fitted, "target": labels}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        unknown = pred.masked_fill(~pred.isnan(), 0).sum(-1)
        return unknown + F.multilabel_margin_loss(pred, target, reduction="none")


def refuse_but_scores(pred: Tensor) -> None:
    """Refuse what are not scores [N, C] or [C] of at least one class."""
    fits = pred.dim() in (1, 2) and pred.shape[-1] > 0
    require(fits, "pred", "must be [N, C] or [C], C at least 1", list(pred.shape))
