"""Losses of a language model's logits, token by token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.tokens import MaskedLogitsLoss
from lossserver.losses.vectors import Fitted, LogitsLoss, fit_logits, fit_tokens, tokens_left
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ZLoss(MaskedLogitsLoss):
    """Z loss of PaLM: keeps the softmax's normaliser near 1, and so the logits from drifting.

    ℓ = c (log Z)²,  Z = Σ_v exp(pred_v)

    Parameters:
        coefficient: c ≥ 0; PaLM's is 1e-4.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, V] or [B, T, V].
        mask: 1 where a token counts, else 0, [N] or [B, T]. A mean is over those
            that count; what stands elsewhere is not read.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it.

    Returns:
        Unreduced float [N] or [B, T]. A token outside the mask has a loss and
        gradient of exactly 0; the mean of no token is 0.

    Raises:
        ValueError: coefficient < 0, a mask of other than 0 and 1, or shapes that
            do not fit.

    Source:
        Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022,
        arXiv:2204.02311, section 5.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "mask")

    coefficient: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 0 <= self.coefficient < math.inf
        require(fits, "coefficient", "must be finite and at least 0", self.coefficient)

    def fit_tokens(self, pred: Tensor) -> Fitted:
        return {"pred": pred}, fit_logits(pred)

    def of_tokens(self, pred: Tensor) -> Tensor:
        return self.coefficient * pred.logsumexp(-1).square()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class LabelSmoothingLoss(LogitsLoss):
    """Cross entropy with smoothed labels: a share of each is spread over all classes.

    ℓ = -(1 - ε) log p_y - ε / V Σ_v log p_v,  p = softmax(pred)

    Parameters:
        label_smoothing: ε in [0, 1]. At 0 this is cross entropy.
        ignore_index: label whose tokens have loss and gradient 0, whatever the
            logits.
        avg_non_ignore: a mean divides by the number of tokens not ignored, as
            torch's does, but 0 where all are. Otherwise by that of all tokens.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, V] or [B, T, V].
        target: class index, integer [N] or [B, T], in 0..V-1 or ignore_index.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it: for
            a mask, set ignore_index, and avg_non_ignore.

    Returns:
        Unreduced float [N] or [B, T], in nats.

    Raises:
        ValueError: label_smoothing outside [0, 1], a label out of range, or
            shapes that do not fit.

    Source:
        Szegedy et al., Rethinking the Inception Architecture for Computer
        Vision, 2015, arXiv:1512.00567, section 7. Unreduced the same values as
        torch's `CrossEntropyLoss(label_smoothing=ε)`.
    """

    OUTSIDE: ClassVar[frozenset[str]] = frozenset({"reduction", "loss_weight", "avg_non_ignore"})

    label_smoothing: float = 0.1
    ignore_index: int = -100
    avg_non_ignore: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 0 <= self.label_smoothing <= 1
        require(fits, "label_smoothing", "must be in [0, 1]", self.label_smoothing)

    def fit(self, pred: Tensor, target: Tensor) -> Fitted:
        shape = fit_logits(pred)
        labels = fit_tokens(target, shape, pred.shape[-1], self.ignore_index)
        return {"pred": pred, "target": labels}, shape

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        return tokens_left(inputs["target"], self.ignore_index) if self.avg_non_ignore else None

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        ignored = target == self.ignore_index
        # Before the softmax, whose slope at a NaN is NaN, wanted or not.
        log_p = F.log_softmax(pred.masked_fill(ignored.unsqueeze(-1), 0), -1)
        own = target.masked_fill(ignored, 0)
        # Not gathered: the gradient of that is scattered, which no kernel can fuse with the rest.
        loss = F.nll_loss(log_p.flatten(0, -2), own.flatten(), reduction="none").view(own.shape)
        if self.label_smoothing:  # which would make a logit of -inf NaN, not without effect
            loss = (1 - self.label_smoothing) * loss - self.label_smoothing * log_p.mean(-1)
        return loss.masked_fill(ignored, 0)
