"""Proximal policy optimisation: policy gradients that stop where the policy has moved enough."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.tokens import Normalization, TokenLoss, tokens_of
from lossserver.registry import LOSSES

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, kw_only=True)
class Proximal(TokenLoss):
    """-min(r A, clip(r) A) + β KL, of the ratio r of the policy to the one that sampled."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "old_logp"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"mask", "ref_logp"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "old_logp", "ref_logp", "mask")

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clip_low", "clip_high", "beta"):
            value = getattr(self, name)
            require(value >= 0, name, "must be at least 0", value)

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        reads_reference = not self.beta or "ref_logp" in inputs
        require(reads_reference, "ref_logp", f"is needed with a beta of {self.beta}", "nothing")
        return super().fit(**inputs)

    def surrogate(self, log_ratio: Tensor, advantages: Tensor, most: float = math.inf) -> Tensor:
        """-min(r A, clip(r, 1 - ε_low, 1 + ε_high) A), and r at most `most` where A < 0."""
        # Which of the two is less is known before the exponential: where A ≥ 0 the clip is at
        # the top only, else at the bottom only. So a ratio that is clipped cannot overflow.
        lowest = math.log1p(-self.clip_low) if self.clip_low < 1 else -math.inf
        good = log_ratio.clamp(max=math.log1p(self.clip_high))
        bad = log_ratio.clamp(lowest, math.log(most))
        return -torch.where(advantages < 0, bad, good).exp() * advantages


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class PPOClipLoss(Proximal):
    """Clipped surrogate of PPO, with DAPO's two bounds, dual clip and a KL penalty.

    ℓ = -min(r A, clip(r, 1 - ε_low, 1 + ε_high) A) + β KL;  r = π / π_old    (eq. 7)

    where A < 0 and there is a dual clip c, the minimum is at least c A. With
    ρ = log π_ref - log π the KL is one of
        k1 = -ρ,  k2 = ρ² / 2,  k3 = e^ρ - 1 - ρ

    Parameters:
        clip_low: ε_low ≥ 0; at 1 or above there is no lower bound.
        clip_high: ε_high ≥ 0. DAPO's is 0.28.
        dual_clip: c > 1, or None.
        beta: weight β ≥ 0 of the penalty; at 0 ref_logp is not read.
        kl_estimator: "k1", "k2" or "k3". The slope of k1 is that of log π alone,
            which on the policy's own samples averages to nothing.
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
        old_logp: log π_old of the same tokens, under the policy that drew
            them; float, shaped like pred.
        ref_logp: log π_ref of the same tokens, under the policy to stay near;
            float, shaped like pred. Needed with a beta above 0.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of A. A token outside the
        mask has a loss and gradient of exactly 0, whatever stands there; the
        mean of no token is 0. A gradient reaches pred, and another input only
        if asked for. Nothing is clamped but by the clips: where A < 0, without
        a dual clip, ℓ is infinite in float32 beyond log r = 88, and so is k3
        beyond ρ = 88.

    Raises:
        ValueError: clip_low, clip_high or beta below 0, dual_clip ≤ 1, beta
            without ref_logp, shapes that do not fit, a mask of other than 0 and
            1, "sequence" without sequences, or "constant" without a constant.

    Source:
        Schulman et al., Proximal Policy Optimization Algorithms, 2017,
        arXiv:1707.06347, eq. 7. Two bounds: Yu et al., DAPO, 2025,
        arXiv:2503.14476. Dual clip: Ye et al., Mastering Complex Control in
        MOBA Games with Deep Reinforcement Learning, 2020, arXiv:1912.09729.
        k1, k2, k3: Schulman, Approximating KL Divergence, 2020.
    """

    dual_clip: float | None = None
    kl_estimator: Estimator = "k3"

    def __post_init__(self) -> None:
        super().__post_init__()
        holds = self.dual_clip is None or self.dual_clip > 1
        require(holds, "dual_clip", "must be above 1, or None", self.dual_clip)

    def of_tokens(
        self,
        pred: Tensor,
        target: Tensor,
        old_logp: Tensor,
        ref_logp: Tensor | None = None,
        *,
        mask: Tensor | None,
    ) -> Tensor:
        loss = self.surrogate(pred - old_logp, target, self.dual_clip or math.inf)
        if not self.beta or ref_logp is None:
            return loss
        return loss + self.beta * divergence(pred, ref_logp, self.kl_estimator)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GRPOLoss(Proximal):
    """Clipped surrogate of GRPO, with its KL penalty; GSPO with a ratio a sequence.

    ℓ = -min(r A, clip(r, 1 - ε_low, 1 + ε_high) A) + β (e^ρ - 1 - ρ)     (eq. 3, 4)

    r = π / π_old and ρ = log π_ref - log π of the token; with a ratio a sequence
    r = (Π π / π_old)^(1/|y|), over the tokens of the sequence y that count.

    Parameters:
        ratio: "token", or "sequence" as in GSPO, whose clips are far narrower.
        clip_low: ε_low ≥ 0; at 1 or above there is no lower bound.
        clip_high: ε_high ≥ 0.
        beta: weight β ≥ 0 of the penalty; at 0 ref_logp is not read.
        normalization: as of PPOClipLoss. TRL 1.16 names them by loss_type:
            "sequence" is grpo, as in the paper; "token" is bnpo, and dapo with
            the whole batch's tokens over the number of processes as avg_factor;
            "constant", at the number of sequences times the longest length, is
            dr_grpo.
        constant: the divisor of normalization "constant".
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: log π of the tokens taken, float [B, T]; or [N] if neither ratio
            nor normalization is "sequence".
        target: advantages A, normalised within their group by the caller:
            float, shaped like pred, or [B], one a sequence.
        old_logp: log π_old of the same tokens, under the policy that drew
            them; float, shaped like pred.
        ref_logp: log π_ref of the same tokens, float, shaped like pred. Needed
            with a beta above 0.
        mask: 1 where a token counts, else 0, shaped like pred.

    Returns:
        Unreduced float, shaped like pred, in units of A; outside the mask 0. A
        sequence without tokens counts as one of loss 0, and the mean of no
        token is 0. Gradients and overflow as of PPOClipLoss.

    Raises:
        ValueError: as PPOClipLoss, or a ratio a sequence without sequences.

    Source:
        Shao et al., DeepSeekMath, 2024, arXiv:2402.03300, eq. 3 and 4. A ratio
        a sequence: Zheng et al., Group Sequence Policy Optimization, 2025,
        arXiv:2507.18071. "constant": Liu et al., Understanding R1-Zero-Like
        Training, 2025, arXiv:2503.20783.
    """

    ratio: Literal["token", "sequence"] = "token"
    beta: float = 0.04
    normalization: Normalization = "sequence"

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.ratio == "sequence":
            shape = list(inputs["pred"].shape)
            rule = 'must hold sequences, [B, T], with ratio "sequence"'
            require(len(shape) == 2, "pred", rule, shape)
        return super().fit(**inputs)

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        if self.ratio == "token":
            return super().reach(zero, leaf)
        # A token's loss reads its whole sequence.
        return super().reach(zero.all(1), leaf)

    def of_tokens(
        self,
        pred: Tensor,
        target: Tensor,
        old_logp: Tensor,
        ref_logp: Tensor | None = None,
        *,
        mask: Tensor | None,
    ) -> Tensor:
        log_ratio = pred - old_logp
        if self.ratio == "sequence":
            # Tokens outside the mask read 0, and add nothing to the sum.
            mean = log_ratio.sum(1, keepdim=True) / tokens_of(pred, mask).clamp(min=1)
            log_ratio = mean.expand_as(pred)
        loss = self.surrogate(log_ratio, target)
        if not self.beta or ref_logp is None:
            return loss
        return loss + self.beta * divergence(pred, ref_logp, "k3")


def divergence(logp: Tensor, ref_logp: Tensor, estimator: Estimator) -> Tensor:
    """An estimate of KL(π ‖ π_ref) of each token that π drew."""
    rho = ref_logp - logp
    if estimator == "k1":
        return -rho
    return rho.square() / 2 if estimator == "k2" else rho.expm1() - rho
