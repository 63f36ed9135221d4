"""Distillation: divergences of a student's distribution over tokens from its teacher's."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.distributions import Distillation, expected, log_ratio
from lossserver.losses.loss import require
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ForwardKLLoss(Distillation):
    """Forward Kullback-Leibler divergence: the student covers all that the teacher may say.

    ℓ = T² KL(P ‖ Q) = T² Σ_v P_v (log P_v - log Q_v)
    P = softmax(target / T),  Q = softmax(pred / T)

    Parameters:
        temperature: T > 0 of both.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred; -inf rules a token out. Their
            gradient comes only where wrt names them.
        weight: the tokens' mask, or any weight: [N]; [B, T] or [B, 1].

    Returns:
        Unreduced float [N] or [B, T], in nats.

    Raises:
        ValueError: temperature ≤ 0, or shapes that do not fit.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531, section 2, less the teacher's entropy.
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return expected(log_p, log_ratio(log_p, log_q))


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ReverseKLLoss(Distillation):
    """Reverse Kullback-Leibler divergence: the student says only what the teacher may say.

    ℓ = T² KL(Q ‖ P) = T² Σ_v Q_v (log Q_v - log P_v)
    P = softmax(target / T),  Q = softmax(pred / T)

    Parameters:
        temperature: T > 0 of both.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred. Their gradient comes only
            where wrt names them. Where one is -inf and the student's is not,
            the loss is infinite.
        weight: the tokens' mask, or any weight: [N]; [B, T] or [B, 1].

    Returns:
        Unreduced float [N] or [B, T], in nats.

    Raises:
        ValueError: temperature ≤ 0, or shapes that do not fit.

    Source:
        Gu et al., MiniLLM: Knowledge Distillation of Large Language Models,
        2023, arXiv:2306.08543, eq. 1, token by token.
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return expected(log_q, log_ratio(log_q, log_p))


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class JSDLoss(Distillation):
    """Generalised Jensen-Shannon divergence: between forward and reverse, and bounded.

    ℓ = T² (β KL(P ‖ M) + (1 - β) KL(Q ‖ M)),  M = β P + (1 - β) Q        (eq. 1)
    P = softmax(target / T),  Q = softmax(pred / T)

    Parameters:
        beta: β in (0, 1), both excluded, where the divergence is 0. Over β it
            tends to the forward divergence as β goes to 0; over 1 - β to the
            reverse one as β goes to 1.
        temperature: T > 0 of both.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred; -inf rules a token out. Their
            gradient comes only where wrt names them.
        weight: the tokens' mask, or any weight: [N]; [B, T] or [B, 1].

    Returns:
        Unreduced float [N] or [B, T], in nats; at T = 1 at most log 2.

    Raises:
        ValueError: beta outside (0, 1), temperature ≤ 0, or shapes that do not fit.

    Source:
        Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023,
        arXiv:2306.13649, eq. 1.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.beta < 1, "beta", "must be in (0, 1), both excluded", self.beta)

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # M / P = β (1 + exp(r)) where r is log Q / P and the odds of Q; M / Q likewise.
        r = log_ratio(log_q, log_p) + math.log1p(-self.beta) - math.log(self.beta)
        teacher = expected(log_p, -math.log(self.beta) - F.softplus(r, threshold=40))
        student = expected(log_q, -math.log1p(-self.beta) - F.softplus(-r, threshold=40))
        return self.beta * teacher + (1 - self.beta) * student
