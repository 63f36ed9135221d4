"""Knowledge distillation."""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.rows import RowwiseLoss
from lossserver.losses.vectors import MAX_TEMPERATURE
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class KnowledgeDistillationKLDivLoss(RowwiseLoss):
    """Knowledge distillation: how far a student's softened scores are from a teacher's.

    ℓ = T²/C Σ_c q_c (log q_c - log p_c);  p = softmax(pred / T), q = softmax(target / T)

    Parameters:
        T: temperature, 1 to 1e6.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, C] or [N, C, ...].
        target: the teacher's logits, shaped like pred. No gradient flows into it.
        weight: broadcasts with the loss, [N, ...].

    Returns:
        Unreduced float [N, ...], in nats: a mean over classes, not a sum, as upstream.

    Raises:
        ValueError: T out of range, or target not shaped like pred.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531, section 2. Same values as MMDetection 3.3.0
        `KnowledgeDistillationKLDivLoss`.
    """

    T: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = 1 <= self.T <= MAX_TEMPERATURE
        require(fits, "T", f"must be in 1..{MAX_TEMPERATURE:.0e}", self.T)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() >= 2, "pred", "must be [N, C, ...]", list(pred.shape))
        inputs, shape = super().fit(pred=pred, target=target)
        return inputs, (shape[0], *shape[2:])

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        log_p = (pred / self.T).log_softmax(1)
        q = (target.detach().to(pred.dtype) / self.T).softmax(1)
        return F.kl_div(log_p, q, reduction="none").mean(1) * self.T**2
