"""Losses of preferences: of two answers the better, or of one whether it is good.

A log-probability here is that of a whole answer, summed over its tokens by the
caller, prompt and padding left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import floating, name_of, require
from lossserver.losses.rows import Elementwise, Exact
from lossserver.registry import LOSSES, RefusedError

Pair = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class PairLoss(Exact, Elementwise):
    """A loss of two answers to each of N prompts, under a policy and a reference."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"ref_logp", "weight"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "ref_logp")
    TREES: ClassVar[frozenset[str]] = frozenset({"pred", "ref_logp"})

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", "must be above 0", self.beta)

    def fit(self, pred: Any, ref_logp: Any = None) -> tuple[dict[str, Any], tuple[int, ...]]:
        shape = shape_of_pair(pred, "pred")
        if ref_logp is None:
            return {"pred": pred}, shape
        if (found := shape_of_pair(ref_logp, "ref_logp")) != shape:
            raise RefusedError(
                "ref_logp", f"must be two of pred's shape, {list(shape)}", list(found)
            )
        return {"pred": pred, "ref_logp": ref_logp}, shape


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DPOLoss(PairLoss):
    """Direct preference optimisation.

    ℓ = -(1 - s) log σ(β h) - s log σ(-β h);  h = log π(c)/π(r) - log π_ref(c)/π_ref(r)    (eq. 7)

    Parameters:
        beta: β > 0; the larger, the nearer the policy stays to the reference.
        label_smoothing: s in [0, ½), the rate at which preferences are thought
            to be the wrong way round (cDPO).
        reference_free: the reference is even, and h = log π(c)/π(r).
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: {"chosen", "rejected"}, log π of the two answers, each summed over
            its tokens: float [N] each.
        ref_logp: likewise of log π_ref. Needed unless reference_free.
        weight: [N].

    Returns:
        Unreduced float [N], in nats; log 2 for a policy that is the reference.
        Gradients come as pred did, {"chosen": [N], "rejected": [N]}, and
        reach ref_logp only if asked for.

    Raises:
        ValueError: beta ≤ 0, label_smoothing outside [0, ½), pred or ref_logp
            not two float [N] of these names, or ref_logp missing or with
            reference_free.

    Source:
        Rafailov et al., Direct Preference Optimization, 2023, arXiv:2305.18290,
        eq. 7. Label smoothing: Mitchell, A Note on DPO with Noisy Preferences,
        2023.
    """

    label_smoothing: float = 0.0
    reference_free: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        holds = 0 <= self.label_smoothing < 0.5
        require(holds, "label_smoothing", "must be in [0, 0.5)", self.label_smoothing)

    def fit(self, pred: Any, ref_logp: Any = None) -> tuple[dict[str, Any], tuple[int, ...]]:
        if self.reference_free and ref_logp is not None:
            raise RefusedError("ref_logp", "goes without reference_free", "both")
        if not self.reference_free and ref_logp is None:
            raise RefusedError("ref_logp", "is needed without reference_free", "nothing")
        return super().fit(pred, ref_logp)

    def formula(self, pred: Pair, ref_logp: Pair | None = None) -> Tensor:
        h = margin(pred) if ref_logp is None else margin(pred) - margin(ref_logp)
        # Each half apart, since -log σ(-x) as x - log σ(x) is ∞ - ∞ for an answer that cannot be.
        # torch's own logsigmoid wakes all threads for any size.
        loss = (1 - self.label_smoothing) * F.softplus(-self.beta * h, threshold=40)
        if not self.label_smoothing:  # which would make of ∞ NaN, not nothing
            return loss
        return loss + self.label_smoothing * F.softplus(self.beta * h, threshold=40)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class IPOLoss(PairLoss):
    """Identity preference optimisation: a margin to be met, not exceeded.

    ℓ = (h - 1 / (2β))²;  h = log π(c)/π(r) - log π_ref(c)/π_ref(r)    (eq. 17)

    Parameters:
        beta: β > 0, the paper's τ.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: {"chosen", "rejected"}, log π of the two answers, float [N] each.
            Eq. 17 sums over tokens; the paper's results, say its authors to TRL,
            and TRL average.
        ref_logp: likewise of log π_ref.
        weight: [N].

    Returns:
        Unreduced float [N], in nats squared. Gradients come as pred did,
        {"chosen": [N], "rejected": [N]}, and reach ref_logp only if asked for.

    Raises:
        ValueError: beta ≤ 0, or pred or ref_logp not two float [N] of these
            names.

    Source:
        Azar et al., A General Theoretical Paradigm to Understand Learning from
        Human Preferences, 2023, arXiv:2310.12036, eq. 17.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "ref_logp"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"weight"})

    def formula(self, pred: Pair, ref_logp: Pair) -> Tensor:
        return (margin(pred) - margin(ref_logp) - 1 / (2 * self.beta)).square()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class KTOLoss(Exact, Elementwise):
    """Kahneman-Tversky optimisation, of answers judged one by one.

    ℓ = λ_D σ(-β (h - z)) if desirable, λ_U σ(-β (z - h)) if not;
    h = log π/π_ref;  z = max(0, kl)

    The paper writes λ - λ σ(x) for what is λ σ(-x) here.

    Parameters:
        beta: β > 0; the larger, the sooner a gain or loss saturates.
        desirable_weight: λ_D ≥ 0.
        undesirable_weight: λ_U ≥ 0.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: log π of the answers, each summed over its tokens: float [N].
        target: 1 or true where an answer is desirable, else 0: bool or integer
            [N].
        ref_logp: log π_ref of the answers, float [N].
        kl: the reference point, an estimate of KL(π ‖ π_ref): the mean of h of
            answers put to the wrong prompts, over all workers. Float [N], or a
            scalar, which is computed alone.
        weight: [N].

    Returns:
        Unreduced float [N], in 0..λ. A gradient reaches pred, and kl and
        ref_logp only if asked for; the paper lets none through kl.

    Raises:
        ValueError: beta ≤ 0, a weight below 0, shapes that do not fit, or a
            target of other than 0 and 1.

    Source:
        Ethayarajh et al., KTO, 2024, arXiv:2402.01306, section 4.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "ref_logp", "kl"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "ref_logp", "kl")

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.beta > 0, "beta", "must be above 0", self.beta)
        for name in ("desirable_weight", "undesirable_weight"):
            require(getattr(self, name) >= 0, name, "must be at least 0", getattr(self, name))

    def fit(self, **inputs: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        pred, target = inputs["pred"], inputs["target"]
        require(pred.dim() == 1, "pred", "must be [N], a number an answer", list(pred.shape))
        for name in ("target", "ref_logp", "kl"):
            shape = list(inputs[name].shape)
            either = "a scalar or " if name == "kl" else ""
            holds = shape == list(pred.shape) or (name == "kl" and not shape)
            require(holds, name, f"must be {either}shaped like pred, {list(pred.shape)}", shape)
        for name in ("ref_logp", "kl"):
            floating(inputs[name], name)
        if target.is_floating_point():
            raise RefusedError("target", "must be bool or integer", name_of(target.dtype))
        if len(other := target[(target != 0) & (target != 1)]):
            raise RefusedError("target", "must hold 0 and 1 only", int(other[0]))
        return inputs, tuple(pred.shape)

    def formula(self, pred: Tensor, target: Tensor, ref_logp: Tensor, kl: Tensor) -> Tensor:
        gain = self.beta * (pred - ref_logp - kl.clamp(min=0))
        good = self.desirable_weight * (-gain).sigmoid()
        bad = self.undesirable_weight * gain.sigmoid()
        return torch.where(target != 0, good, bad)


def margin(pair: Pair) -> Tensor:
    """How much likelier the chosen answer is, in nats."""
    return pair["chosen"] - pair["rejected"]


def shape_of_pair(pair: Any, name: str) -> tuple[int, ...]:
    """The shape [N] that both of a pair have. Raises RefusedError if it is not one."""
    keys = sorted(pair) if isinstance(pair, Mapping) else type(pair).__name__
    require(keys == ["chosen", "rejected"], name, 'must be {"chosen", "rejected"}', keys)
    for key in keys:
        if not isinstance(pair[key], Tensor):
            raise RefusedError(f"{name}.{key}", "must be one tensor", type(pair[key]).__name__)
        floating(pair[key], f"{name}.{key}")
    shape, other = (list(pair[key].shape) for key in keys)
    require(len(shape) == 1, f"{name}.chosen", "must be [N], a number an answer", shape)
    require(other == shape, f"{name}.rejected", f"must be shaped like chosen, {shape}", other)
    return tuple(shape)
