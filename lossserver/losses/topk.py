"""Distillation of what a trainer can afford to send: the teacher's most likely tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import refuse_outside
from lossserver.losses.distributions import Distillation, kl
from lossserver.losses.loss import floating, name_of, require
from lossserver.losses.vectors import Fitted, fit_logits
from lossserver.registry import LOSSES, RefusedError

#: How much more than 1 the sum of rounded probabilities may be: bfloat16 keeps three digits.
ROUNDING = 0.01


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class TopKKLLoss(Distillation):
    """Forward Kullback-Leibler divergence of a teacher's top K tokens.

    ℓ = T² Σ_k P_k (log P_k - log Q_k)

    renormalize:  P = softmax(teacher / T),  Q = softmax(pred_indices / T),  both over the K
    rest:         P = exp(logprobs),  Q = softmax(pred),  and one more term, for all the
                  other tokens as one: P_rest = 1 - Σ_k P_k,  Q_rest = 1 - Σ_k Q_k

    Parameters:
        tail: "renormalize" takes both distributions given that the token is
            among the K; the student's other logits get no gradient. "rest" has
            one bucket for all the others; it goes with logprobs, at T = 1.
        temperature: T of both, above 0 and at most 1e6. Must be 1 for "rest":
            how much the others have at another temperature, the top K do not tell.
        temperature_squared: the factor T², with which gradients keep their
            size at any temperature; false leaves it out.
        reduction: "mean", "sum" or "none". The mean is over tokens.
        loss_weight: factor of the result.

    Inputs:
        pred: the student's logits, float [N, V] or [B, T, V].
        target: a map of the teacher's: `indices`, integer [N, K] or [B, T, K],
            in 0..V-1 and distinct in a row; and either `logits` or `logprobs`,
            float and shaped like them. A log probability is at most 0 and of T = 1.
            "renormalize" takes either; "rest" logprobs of at most 1.01 in all a
            row. Their gradient comes only where wrt names target.
        mask: 1 where a token counts, else 0, [N] or [B, T]. A mean is over those
            that count; what stands elsewhere is not read.
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it.

    Returns:
        Unreduced float [N] or [B, T], in nats. Where K is V it is ForwardKLLoss.
        P is taken to add up to 1, so its gradient is P (log P - log Q) of log P.

    Raises:
        ValueError: temperature out of range, or not 1 for "rest"; "rest" of logits; an
            index out of range or twice in a row; a log probability above 0, or
            together more than rounding makes of 1; a mask of other than 0 and 1;
            or shapes that do not fit.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531, section 2, of a part of the tokens.
    """

    TREES: ClassVar[frozenset[str]] = frozenset({"target"})

    tail: Literal["renormalize", "rest"] = "renormalize"

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.tail != "rest" or self.temperature == 1
        require(fits, "temperature", 'must be 1 for the tail "rest"', self.temperature)

    def fit_tokens(self, pred: Tensor, target: Any) -> Fitted:
        shape = fit_logits(pred)
        name = self._fit_names(target)
        indices, teacher = target["indices"], floating(target[name], f"target.{name}")
        fits = indices.dim() == pred.dim() and indices.shape[:-1] == shape and indices.shape[-1] > 0
        wanted = f"must be {[*shape, 'K']}, K ≥ 1"
        require(fits, "target.indices", wanted, list(indices.shape))
        wanted = f"must be shaped like the indices, {list(indices.shape)}"
        require(teacher.shape == indices.shape, f"target.{name}", wanted, list(teacher.shape))
        return {"pred": pred, "target": target | {"indices": _whole(indices)}}, shape

    def fit(self, *args: Any, mask: Tensor | None = None, **inputs: Any) -> Fitted:
        fitted, shape = super().fit(mask=mask, **inputs)
        pred, target = fitted["pred"], fitted["target"]
        # A token outside the mask may hold anything, as where nothing was padded with a top K.
        read = {name: one if mask is None else one[mask != 0] for name, one in target.items()}
        _refuse_indices(read["indices"], pred.shape[-1])
        if "logprobs" in read:
            self._refuse_logprobs(read["logprobs"])
        return fitted, shape

    def _refuse_logprobs(self, logprobs: Tensor) -> None:
        over = logprobs[logprobs > 0][:1].tolist()
        require(not over, "target.logprobs", "must be at most 0", over)
        if self.tail == "rest":
            mass = logprobs.float().exp().sum(-1)
            over = mass[mass > 1 + ROUNDING][:1].tolist()
            rule = f"must make probabilities of at most {1 + ROUNDING} in all a row"
            require(not over, "target.logprobs", rule, over)

    def _fit_names(self, target: Any) -> str:
        """Which of logits and logprobs the target has."""
        if not isinstance(target, dict) or not all(isinstance(x, Tensor) for x in target.values()):
            wanted = "must be a map of two tensors: indices, and logits or logprobs"
            raise RefusedError("target", wanted, type(target).__name__)
        for name in ("logits", "logprobs"):
            if target.keys() == {"indices", name} and (name, self.tail) != ("logits", "rest"):
                return name
        wanted = "logprobs" if self.tail == "rest" else "logits or logprobs"
        rule = f"must have indices and {wanted}"
        raise RefusedError("target", rule, ", ".join(sorted(target)) or "nothing")

    def distributions(self, pred: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        indices = target["indices"]
        teacher = target["logprobs"] if "logprobs" in target else target["logits"]
        if self.tail == "renormalize":
            return super().distributions(pred.gather(-1, indices), teacher)
        log_q = F.log_softmax(pred, -1)
        student = log_q.gather(-1, indices)
        if indices.shape[-1] == pred.shape[-1]:
            return teacher, student
        others = _log_sum(log_q.scatter(-1, indices, -torch.inf))
        return torch.cat([teacher, _log_rest(teacher)], -1), torch.cat([student, others], -1)

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl(log_p, log_q)


def _whole(indices: Tensor) -> Tensor:
    """The indices as int64."""
    if indices.is_floating_point() or indices.dtype is torch.bool:
        wanted = "must be of an integer type"
        raise RefusedError("target.indices", wanted, name_of(indices.dtype))
    return indices.long()


def _refuse_indices(indices: Tensor, classes: int) -> None:
    """Refuse indices that are out of range, or twice in a row."""
    refuse_outside(indices, 0, classes - 1, f"in 0..{classes - 1}")
    if not indices.numel():
        return  # before a sort, which makes a number for each place of a row, even if there is none
    ordered = indices.sort(-1).values
    twice = ordered[..., 1:][ordered[..., 1:] == ordered[..., :-1]][:1].tolist()
    require(not twice, "target.indices", "must be distinct in a row", f"twice {twice}")


def _log_sum(log_p: Tensor) -> Tensor:
    """log Σ P [..., 1]. Where all P are 0 it is -inf, whose slope is 0 and not NaN."""
    nothing = (log_p == -torch.inf).all(-1, keepdim=True)
    filled = log_p.masked_fill(nothing, 0).logsumexp(-1, keepdim=True)
    return filled.masked_fill(nothing, -torch.inf)


def _log_rest(log_p: Tensor) -> Tensor:
    """log(1 - Σ P), -inf where the sum is 1 or rounds to more."""
    rest = -torch.expm1(_log_sum(log_p))
    nothing = rest <= 0
    # 1 where there is no rest: the slope of log at 0 would make the gradient NaN.
    return rest.masked_fill(nothing, 1).log().masked_fill(nothing, -torch.inf)
