"""Contrastive losses of labels: vectors of one class come together, those of others go apart."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import refuse_pairs, require
from lossserver.losses.vectors import (
    Fitted,
    VectorLoss,
    cosines,
    fit_labels,
    fit_vectors,
    refuse_temperature,
    unit,
    without_diagonal,
)
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SupConLoss(VectorLoss):
    """Supervised contrastive loss: a vector finds all others of its class.

    ℓ_i = -(τ / τ_0) / |P(i)| Σ_{p ∈ P(i)} log exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ)   (eq. 2)

    where P(i) are the other vectors of the class of i.

    Parameters:
        temperature: τ > 0, at most 1e6.
        base_temperature: τ_0, likewise, which scales the loss. The authors' code has
            0.07 whatever the temperature; the paper's equation is τ_0 = τ.
        normalize: vectors are divided by max(‖z‖, 1e-12) first. A vector of
            zeros stays one; its gradient is finite but large.
        reduction: "mean", "sum" or "none". The mean counts vectors without
            positives too, as the authors' code does.
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, D], or [N, V, D] of V views of each.
        target: class indices, integer [N]; any numbers, only compared. Views
            of one row are of one class. With labels 0..N-1, each row its own,
            it is SimCLR's loss, up to τ / τ_0.
        weight: broadcasts to the loss: [N], or [N, V] or [N, 1] for views.

    Returns:
        Unreduced float [N], or [N, V], in nats. A vector without positives has 0.

    Raises:
        ValueError: a temperature out of range, shapes that do not fit, or over 2²⁶ pairs.

    Source:
        Khosla et al., Supervised Contrastive Learning, 2020,
        arXiv:2004.11362, eq. 2 (L_out), over all views.
    """

    temperature: float = 0.07
    base_temperature: float = 0.07
    normalize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_temperature("temperature", self.temperature)
        refuse_temperature("base_temperature", self.base_temperature)

    def fit(self, pred: Tensor, target: Tensor) -> Fitted:
        views = pred.dim() in (2, 3) and pred.shape[-1] > 0
        require(views, "pred", "must be vectors [N, D] or [N, V, D], D ≥ 1", list(pred.shape))
        shape = tuple(pred.shape[:-1])
        labels = fit_labels(target, shape[:1])
        refuse_pairs(math.prod(shape) ** 2, "vectors")
        return {"pred": pred, "target": labels}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        z = pred.flatten(0, -2)
        z = unit(z) if self.normalize else z
        shape = pred.shape[:-1]
        labels = target.view(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()
        log_p = F.log_softmax(without_diagonal(z @ z.T / self.temperature), 1)
        positive = same_class(labels)
        total = log_p.masked_fill(~positive, 0).sum(1)
        mean = total / positive.sum(1).clamp(min=1)
        return (-self.temperature / self.base_temperature * mean).view(shape)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CircleLoss(VectorLoss):
    """Circle loss: the worse a pair's similarity is, the harder it is pulled.

    ℓ_i = log(1 + Σ_n exp(γ α_n (s_n - m)) Σ_p exp(-γ α_p (s_p - 1 + m)))          (eq. 6)
    α_n = max(0, s_n + m),  α_p = max(0, 1 + m - s_p)                       (eq. 5)

    where s are cosines of vector i with the others, p of its class and n not.

    Parameters:
        m: relaxation m: a positive pair should reach 1 - m, a negative one m.
        gamma: scale γ > 0. The paper has 256 for faces, 128 for persons, and
            m = 0.4 with 80 for fine-grained retrieval.
        reduction: "mean", "sum" or "none". The mean counts vectors whose loss
            is 0 too.
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, D]; each vector is divided by max(‖x‖, 1e-12) first.
        target: class indices, integer [N]; any numbers, only compared.
        weight: [N].

    Returns:
        Unreduced float [N]. A vector without positives, or without negatives,
        has 0. No gradient goes through α_n and α_p, as in the paper (eq. 10).

    Raises:
        ValueError: gamma ≤ 0, shapes that do not fit, or over 2²⁶ pairs.

    Source:
        Sun et al., Circle Loss: A Unified Perspective of Pair Similarity
        Optimization, 2020, arXiv:2002.10857, eq. 5 to 8, each vector of the
        batch the anchor of its pairs.
    """

    m: float = 0.25
    gamma: float = 256.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma > 0, "gamma", "must be above 0", self.gamma)

    def fit(self, pred: Tensor, target: Tensor) -> Fitted:
        fit_vectors(pred, "pred")
        shape = (len(pred),)
        refuse_pairs(len(pred) ** 2, "vectors")
        return {"pred": pred, "target": fit_labels(target, shape)}, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        s = cosines(pred, pred)
        a_p = (1 + self.m - s.detach()).clamp(min=0)
        a_n = (s.detach() + self.m).clamp(min=0)
        pull = -self.gamma * a_p * (s - (1 - self.m))
        push = self.gamma * a_n * (s - self.m)
        alike = target.unsqueeze(1) == target
        pull = pull.masked_fill(~same_class(target), -torch.inf)
        push = push.masked_fill(alike, -torch.inf)
        return F.softplus(pull.logsumexp(1) + push.logsumexp(1), threshold=40)


def same_class(labels: Tensor) -> Tensor:
    """bool [N, N]: whether two different vectors are of one class."""
    return (labels.unsqueeze(1) == labels).fill_diagonal_(False)
