"""Two distributions over tokens, a teacher's and a student's: what the losses between them share."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import floating, require
from lossserver.losses.vectors import Fitted, LogitsLoss, fit_logits, refuse_temperature


@dataclass(frozen=True, kw_only=True)
class Distillation(LogitsLoss):
    """A divergence of teacher P and student Q, both at a temperature."""

    temperature: float = 1.0
    temperature_squared: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_temperature("temperature", self.temperature)

    def fit(self, pred: Tensor, target: Any) -> Fitted:
        shape = fit_logits(pred)
        floating(target, "target")
        rule = f"must be logits shaped like pred, {list(pred.shape)}"
        require(target.shape == pred.shape, "target", rule, list(target.shape))
        return {"pred": pred, "target": target}, shape

    def formula(self, pred: Tensor, target: Any) -> Tensor:
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


def expected(log_p: Tensor, values: Tensor) -> Tensor:
    """Σ P · values. What cannot happen counts nothing, though its value may be infinite."""
    p = log_p.exp()
    return (p * values.masked_fill(p == 0, 0)).sum(-1)
