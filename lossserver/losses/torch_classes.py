"""The losses of torch.nn of one label among classes, under the scope torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.rows import RowwiseLoss
from lossserver.losses.torch_nn import OfLabels, Smoothed
from lossserver.registry import LOSSES


@dataclass(frozen=True, kw_only=True)
class Scores(OfLabels, RowwiseLoss):
    """A loss over the classes along dimension 1 of pred [N, C, ...]; a lone row is [C]."""

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        return inputs["pred"].dim() > 1 and super().aligned(inputs)

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero.unsqueeze(1)


@LOSSES.register_as("torch.CrossEntropyLoss")
@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss(Smoothed, Scores):
    """Softmax cross entropy, as torch has it.

    ℓ = -Σ_c w_c q_c log softmax(pred)_c,  q = (1 - s) t + s / C

    A mean divides Σ ℓ by Σ w_y over the labels y that are not ignored; of class
    probabilities by the number of rows, whatever w.

    Parameters:
        weight: a factor w a class; None is 1.
        ignore_index: label y for which ℓ is 0; None is -100.
        label_smoothing: s in [0, 1].
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: logits, float [N, C] or [N, C, ...], or [C] of a lone row.
        target: class index, integer [N, ...], in 0..C-1 or ignore_index; or
            class probabilities t, float, shaped like pred.
        weight: factor of ℓ that broadcasts with it, not of a class; a mean
            divides as without it. torch has none.

    Returns:
        Unreduced float [N, ...], in nats. A mean of nothing is NaN.

    Raises:
        ValueError: a class index out of range, a weight of another length than
            C, ignore_index ≥ 0 with probabilities, label_smoothing outside
            [0, 1], or shapes that do not fit.

    Source:
        Szegedy et al., Rethinking the Inception Architecture, 2015,
        arXiv:1512.00567, section 7 (smoothing). PyTorch, `torch.nn.CrossEntropyLoss`.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        target, shape = self.fit_labels(tuple(pred.shape), target)
        return {"pred": pred, "target": target}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.entropy(pred, target)


@LOSSES.register_as("torch.NLLLoss")
@dataclass(frozen=True, kw_only=True)
class NLLLoss(Scores):
    """Negative log-likelihood of labels, from log-probabilities.

    ℓ = -w_y pred_y,  y = target

    A mean divides Σ ℓ by Σ w_y over the labels that are not ignored.

    Parameters:
        weight: a factor w a class; None is 1.
        ignore_index: label y for which ℓ is 0; None is -100.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: log-probabilities, float [N, C] or [N, C, ...], or [C] of a lone row.
        target: class index, integer [N, ...], in 0..C-1 or ignore_index.
        weight: factor of ℓ that broadcasts with it, not of a class; a mean
            divides as without it. torch has none.

    Returns:
        Unreduced float [N, ...], in nats. A mean of nothing is NaN.

    Raises:
        ValueError: a class index out of range, a weight of another length than
            C, or shapes that do not fit.

    Source:
        PyTorch, `torch.nn.NLLLoss`, which `torch.nn.NLLLoss2d` is an old name of.
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        target, shape = self.fit_labels(tuple(pred.shape), target, soft=False)
        return {"pred": pred, "target": target}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            pred,
            target,
            weight=self.class_weight(pred),
            ignore_index=self.ignored,
            reduction="none",
        )


LOSSES.alias("torch.NLLLoss2d", "torch.NLLLoss")
