"""Distillation: divergences of a student's distribution over tokens from its teacher's."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.distributions import Distillation, divergence, kl, log_ratio
from lossserver.losses.loss import require
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ForwardKLLoss(Distillation):
    """Forward Kullback-Leibler divergence: the student covers all that the teacher may say.

    ℓ = T² KL(P ‖ Q) = T² Σ_v P_v (log P_v - log Q_v)
    P = softmax(target / T),  Q = softmax(pred / T)

    Parameters:
        temperature: T of both, above 0 and at most 1e6.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred; -inf rules a token out. Their
            gradient comes only where wrt names them.
        mask: 1 where a token counts, else 0, [N] or [B, T]. A mean is over those
            that count; what stands elsewhere is not read.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it.

    Returns:
        Unreduced float [N] or [B, T], in nats.

    Raises:
        ValueError: temperature out of range, a mask of other than 0 and 1, or shapes that
            do not fit.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531, section 2, less the teacher's entropy.
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl(log_p, log_q)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ReverseKLLoss(Distillation):
    """Reverse Kullback-Leibler divergence: the student says only what the teacher may say.

    ℓ = T² KL(Q ‖ P) = T² Σ_v Q_v (log Q_v - log P_v)
    P = softmax(target / T),  Q = softmax(pred / T)

    Parameters:
        temperature: T of both, above 0 and at most 1e6.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred. Their gradient comes only
            where wrt names them. Where one is -inf and the student's is not,
            the loss is infinite.
        mask: 1 where a token counts, else 0, [N] or [B, T]. A mean is over those
            that count; what stands elsewhere is not read.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it.

    Returns:
        Unreduced float [N] or [B, T], in nats.

    Raises:
        ValueError: temperature out of range, a mask of other than 0 and 1, or shapes that
            do not fit.

    Source:
        Gu et al., MiniLLM: Knowledge Distillation of Large Language Models,
        2023, arXiv:2306.08543, eq. 1, token by token.
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl(log_q, log_p)


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
        temperature: T of both, above 0 and at most 1e6.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature, as Hinton et al. advise; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: the teacher's, shaped like pred; -inf rules a token out. Their
            gradient comes only where wrt names them.
        mask: 1 where a token counts, else 0, [N] or [B, T]. A mean is over those
            that count; what stands elsewhere is not read.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it.

    Returns:
        Unreduced float [N] or [B, T], in nats; at T = 1 at most log 2.

    Raises:
        ValueError: beta outside (0, 1), temperature out of range, a mask of other than 0
            and 1, or shapes that do not fit.

    Source:
        Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023,
        arXiv:2306.13649, eq. 1.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        # At the ends the divergence is 0, and no use; who asks for them means another loss.
        rule = "must be in (0, 1); for 0 take ForwardKLLoss, for 1 take ReverseKLLoss"
        require(0 < self.beta < 1, "beta", rule, self.beta)

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # M / P = β (1 + exp(r)) where r is log Q / P and the odds of Q; M / Q likewise.
        r = log_ratio(log_q, log_p) + math.log1p(-self.beta) - math.log(self.beta)
        p, q = log_p.exp(), log_q.exp()
        m = self.beta * p + (1 - self.beta) * q
        teacher = divergence(p, m, -math.log(self.beta) - F.softplus(r, threshold=40))
        student = divergence(q, m, -math.log1p(-self.beta) - F.softplus(-r, threshold=40))
        return self.beta * teacher + (1 - self.beta) * student
