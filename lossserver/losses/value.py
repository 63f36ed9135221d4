"""What goes with a policy gradient: the value it is measured against, and the entropy it keeps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.tokens import TokenLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ValueClipLoss(TokenLoss):
    """Value loss of PPO, clipped to stay near the value at sampling time.

    ℓ = ½ max((V - R)², (clip(V, V_old - ε, V_old + ε) - R)²)

    Parameters:
        clip: ε > 0, in units of V.
        normalization: as of PPOClipLoss.
        constant: the divisor of normalization "constant".
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: values V, float [B, T] or [N].
        target: returns R, float, shaped like pred, or [B], one a sequence.
        old_values: V_old, the values when the samples were drawn; float, shaped
            like pred.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of V squared; outside the
        mask loss and gradient are exactly 0, and the mean of no token is 0. A
        gradient reaches pred, and another input only if asked for.

    Raises:
        ValueError: clip ≤ 0; else as PPOClipLoss.

    Source:
        Engstrom et al., Implementation Matters in Deep Policy Gradients, 2020,
        arXiv:2005.12729, section 3; the ½ is that of OpenAI Baselines' `ppo2`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "old_values"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "old_values", "mask")

    clip: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clip > 0, "clip", "must be above 0", self.clip)

    def of_tokens(
        self, pred: Tensor, target: Tensor, old_values: Tensor, *, mask: Tensor | None
    ) -> Tensor:
        near = pred.clamp(old_values - self.clip, old_values + self.clip)
        return torch.maximum((pred - target).square(), (near - target).square()) / 2


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class EntropyLoss(TokenLoss):
    """Negative entropy of a policy: minimising it keeps the policy from settling early.

    ℓ = -H = Σ_v p_v log p_v;  p = softmax(pred)

    Parameters:
        normalization: as of PPOClipLoss.
        constant: the divisor of normalization "constant".
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result, the entropy bonus's coefficient. A
            negative one makes it a penalty on entropy.

    Inputs:
        pred: logits, float [B, T, V] or [N, V]. One of -inf, a token that may
            not be taken, adds nothing and has a gradient of 0.
        mask: 1 where a token counts, else 0, [B, T] or [N].

    Returns:
        Unreduced float [B, T] or [N], in nats, in -log V..0; outside the mask
        loss and gradient are exactly 0, and the mean of no token is 0.

    Raises:
        ValueError: pred of another rank, or as PPOClipLoss.

    Source:
        Mnih et al., Asynchronous Methods for Deep Reinforcement Learning, 2016,
        arXiv:1602.01783, section 4, the entropy term with its sign turned.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "mask")

    def fit(
        self, pred: Tensor, mask: Tensor | None = None
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() in {2, 3}, "pred", "must be [B, T, V] or [N, V]", list(pred.shape))
        return self.fit_tokens({"pred": pred}, mask, tuple(pred.shape[:-1]))

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero.unsqueeze(-1)

    def of_tokens(self, pred: Tensor, *, mask: Tensor | None) -> Tensor:
        logp = pred.log_softmax(-1)
        # 0 times the least float is 0, where 0 times -inf is NaN.
        return (logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)
