"""Policy gradients: the probability of what was done goes up where it did well."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.tokens import TokenLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class PolicyGradientLoss(TokenLoss):
    """REINFORCE, the plain policy gradient.

    ℓ = -A log π

    Parameters:
        normalization: what a mean is. "token": Σ ℓ / the number of tokens that
            count; "sequence": the mean over sequences of each one's mean over
            its tokens; "constant": Σ ℓ / constant. A call's avg_factor stands
            in for the number of tokens or sequences or the constant.
        constant: the divisor of "constant".
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: log π of the tokens taken, float [B, T] or [N].
        target: advantages A, above 0 for better than expected: float, shaped
            like pred, or [B], one a sequence.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of A; negative where a
        likely token did badly. A token outside the mask has a loss and
        gradient of exactly 0, whatever stands there; the mean of no token is 0.
        A gradient reaches pred, and another input only if asked for.

    Raises:
        ValueError: shapes that do not fit, a mask of other than 0 and 1,
            "sequence" without sequences, or "constant" without a constant.

    Source:
        Williams, Simple Statistical Gradient-Following Algorithms for
        Connectionist Reinforcement Learning, 1992, doi:10.1007/BF00992696.
    """

    def of_tokens(self, pred: Tensor, target: Tensor, *, mask: Tensor | None) -> Tensor:
        return -target * pred


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ImportanceSamplingLoss(TokenLoss):
    """Policy gradient of samples that an older policy drew.

    ℓ = -(π / π_old) A

    Parameters:
        normalization: as of PolicyGradientLoss.
        constant: the divisor of normalization "constant".
        reduction: "mean", "sum" or "none". Tinker sums.
        loss_weight: factor of the result.

    Inputs:
        pred: log π of the tokens taken, float [B, T] or [N].
        target: advantages A, float, shaped like pred, or [B], one a sequence.
        old_logp: log π_old of the same tokens, under the policy that drew
            them; float, shaped like pred.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of A; outside the mask 0, as
        of PolicyGradientLoss. The ratio is not clamped: in float32 it is
        infinite beyond a log-ratio of 88, and NaN times an advantage of 0. A
        gradient reaches pred, and another input only if asked for.

    Raises:
        ValueError: as PolicyGradientLoss.

    Source:
        Thinking Machines, Tinker, 2025, loss function `importance_sampling`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "old_logp"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "old_logp", "mask")

    def of_tokens(
        self, pred: Tensor, target: Tensor, old_logp: Tensor, *, mask: Tensor | None
    ) -> Tensor:
        return -(pred - old_logp).exp() * target


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CISPOLoss(TokenLoss):
    """Policy gradient with a clipped importance weight: no token loses its gradient.

    ℓ = -sg(r̂) A log π;  r̂ = clip(π / π_old, 1 - ε_low, 1 + ε_high)     (eq. 4, 5)

    Parameters:
        clip_high: ε_high ≥ 0. The paper gives no number; TRL's `epsilon_high`
            of CISPO is 1 + ε_high.
        clip_low: ε_low ≥ 0; at 1 or above there is no lower bound, as in the
            paper's own runs.
        normalization: as of PolicyGradientLoss; the paper's is "token".
        constant: the divisor of normalization "constant".
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: log π of the tokens taken, float [B, T] or [N].
        target: advantages A, float, shaped like pred, or [B], one a sequence.
        old_logp: log π_old of the same tokens, under the policy that drew
            them; float, shaped like pred.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of A; outside the mask 0, as
        of PolicyGradientLoss. sg stops the gradient: that of pred is -r̂ A, and
        none reaches old_logp. The log-ratio is clipped before its exponential
        is taken, so no ratio overflows.

    Raises:
        ValueError: clip_low or clip_high below 0; else as PolicyGradientLoss.

    Source:
        MiniMax, MiniMax-M1, 2025, arXiv:2506.13585, eq. 4 and 5.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "old_logp"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "old_logp", "mask")

    clip_high: float
    clip_low: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clip_high >= 0, "clip_high", "must be at least 0", self.clip_high)
        require(self.clip_low >= 0, "clip_low", "must be at least 0", self.clip_low)

    def of_tokens(
        self, pred: Tensor, target: Tensor, old_logp: Tensor, *, mask: Tensor | None
    ) -> Tensor:
        lowest = math.log1p(-self.clip_low) if self.clip_low < 1 else -math.inf
        log_ratio = (pred - old_logp).clamp(lowest, math.log1p(self.clip_high))
        return -log_ratio.exp().detach() * target * pred
