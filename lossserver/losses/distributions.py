"""Two distributions over tokens, a teacher's and a student's: what the losses between them share."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import floating, require
from lossserver.losses.tokens import MaskedLogitsLoss
from lossserver.losses.vectors import Fitted, fit_logits, refuse_temperature


@dataclass(frozen=True, kw_only=True)
class Distillation(MaskedLogitsLoss):
    """A divergence of teacher P and student Q, both at a temperature."""

    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "mask")

    temperature: float = 1.0
    temperature_squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_temperature("temperature", self.temperature)

    def fit_tokens(self, pred: Tensor, target: Any) -> Fitted:
        shape = fit_logits(pred)
        floating(target, "target")
        rule = f"must be logits shaped like pred, {list(pred.shape)}"
        require(target.shape == pred.shape, "target", rule, list(target.shape))
        return {"pred": pred, "target": target}, shape

    def of_tokens(self, pred: Tensor, target: Any) -> Tensor:
        factor = self.temperature**2 if self.temperature_squared else 1.0
        return factor * self.divergence(*self.distributions(pred, target))

    def distributions(self, pred: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """log P and log Q."""
        log_p = F.log_softmax(target / self.temperature, -1)
        return log_p, F.log_softmax(pred / self.temperature, -1)

    @abstractmethod
    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Of P and Q, token by token."""


def log_ratio(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log P / Q, and 0 where both are 0."""
    neither = (log_p == -torch.inf) & (log_q == -torch.inf)
    return (log_p - log_q).masked_fill(neither, 0)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(P ‖ Q)."""
    return divergence(log_p.exp(), log_q.exp(), log_ratio(log_p, log_q))


def divergence(p: Tensor, q: Tensor, r: Tensor) -> Tensor:
    """KL(P ‖ Q) of r = log P / Q, as Σ P (r + e^-r - 1), which is Σ P r since Σ P = Σ Q.

    Of Σ P r the terms cancel: of two distributions that are nearly the same
    float32 would keep but noise, half of it below 0. Here no term is below 0.
    """
    near = r.abs() <= 1
    small = r.masked_fill(~near, 0)
    # Each side reads 0 where the other is taken, and so has no slope there. The far one does
    # without e^-r, which overflows; what P rules out costs its Q.
    far = p * r.masked_fill(near | (p == 0), 0) - p + q
    return torch.where(near, p * (small + small.neg().expm1()), far).sum(-1)
