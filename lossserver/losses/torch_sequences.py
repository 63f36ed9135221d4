"""The loss of torch.nn of sequences, under the scope torch."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of
from lossserver.losses.cotangent import broadcast
from lossserver.losses.loss import Call, name_of, refuse_pairs, require
from lossserver.losses.rows import Exact, Sample
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.CTCLoss")
@dataclass(frozen=True, kw_only=True)
class CTCLoss(Exact):
    """Connectionist temporal classification: labels in order, at times unknown.

    ℓ = -log Σ_π Π_t exp(pred_{t, π_t})

    over the paths π that give the target once repetitions, then blanks, are
    taken out. A mean divides each ℓ by the length of its target (at least 1),
    then the sum by N.

    Parameters:
        blank: the class that stands for no label.
        zero_infinity: an infinite ℓ, of a target too long for its input, and its
            gradient are 0.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: log-probabilities, float [T, N, C], or [T, C] of a lone sequence.
            The gradient is torch's, made to go through a log_softmax: it has the
            probabilities added to the true derivative, which log_softmax takes out.
        target: labels, integer [N, S], of which the first target_lengths are read,
            or all of them in one row, [sum of target_lengths].
        input_lengths: steps of pred that count, integer [N], in 0..T.
        target_lengths: labels that count, integer [N].
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [N], in nats; of a lone sequence [].

    Raises:
        ValueError: a length out of range, a label out of range or blank, shapes
            that do not fit, or over 2²⁶ states T · N · (2 S + 1).

    Source:
        Graves et al., Connectionist Temporal Classification, 2006, ICML, eq. 3
        and 8. PyTorch, `torch.nn.CTCLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset(
        {"pred", "target", "input_lengths", "target_lengths"}
    )
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "input_lengths", "target_lengths")

    blank: int = 0
    zero_infinity: bool = False

    def fit(
        self, pred: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        if pred.dim() not in (2, 3) or not pred.shape[0] or not pred.shape[-1]:
            raise RefusedError("pred", "must be [T, N, C] or [T, C], T and C ≥ 1", list(pred.shape))
        steps, shape, classes = pred.shape[0], tuple(pred.shape[1:-1]), pred.shape[-1]
        require(
            0 <= self.blank < classes, "config.blank", f"must be in 0..{classes - 1}", self.blank
        )
        inputs = lengths("input_lengths", input_lengths, shape, steps)
        targets = lengths("target_lengths", target_lengths, shape, target.numel())
        longest = int(targets.max()) if targets.numel() else 0
        refuse_pairs(steps * targets.numel() * (2 * longest + 1), "time steps and labels")
        return {
            "pred": pred,
            "target": self._labels(target, targets, longest, classes),
            "input_lengths": inputs,
            "target_lengths": targets,
        }, shape

    def _labels(self, target: Tensor, counts: Tensor, longest: int, classes: int) -> Tensor:
        """The labels, with those that no length reaches set to one that is in range."""
        labels = labels_of(target)
        if labels.dim() == 1:
            total = int(counts.sum())
            rule = f"must be [N, S], or [{total}], the sum of target_lengths"
            require(labels.numel() == total, "target", rule, list(labels.shape))
            unread = torch.zeros_like(labels, dtype=torch.bool)
        else:
            rule = f"must be [{counts.numel()}, S], S at least {longest}, or one row"
            fits = (
                labels.dim() == 2 and len(labels) == counts.numel() and labels.shape[1] >= longest
            )
            require(fits, "target", rule, list(labels.shape))
            if not len(labels):
                return labels  # and no arange of a width that cost no byte
            places = torch.arange(labels.shape[1], device=labels.device)
            unread = places >= counts.reshape(-1, 1)
        wrong = labels[~unread & ((labels < 0) | (labels >= classes) | (labels == self.blank))]
        if len(wrong):
            rule = f"a label must be in 0..{classes - 1} and not the blank, {self.blank}"
            raise RefusedError("target", rule, int(wrong[0]))
        return labels.masked_fill(unread, 0)

    def sample(self, call: Call) -> Sample:
        sample = super().sample(call)
        if self.reduction_of(call) not in ("mean", "elementwise_mean"):
            return sample
        part = 1 / sample.inputs["target_lengths"].clamp(min=1).to(sample.inputs["pred"].dtype)
        if sample.weight is not None:
            broadcast("weight", sample.weight, sample.shape, "the loss")
            part = part * sample.weight
        return replace(sample, weight=part)

    def formula(
        self, pred: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor
    ) -> Tensor:
        if not pred.numel():
            return pred.sum((0, 2))
        rows = F.ctc_loss(
            pred,
            target,
            # Of an input of no steps only the empty target can come; not every torch knows that.
            input_lengths.clamp(min=1),
            target_lengths,
            blank=self.blank,
            reduction="none",
            zero_infinity=self.zero_infinity,
        )
        impossible = rows.new_full((), 0 if self.zero_infinity else torch.inf)
        empty = torch.where(target_lengths > 0, impossible, 0)
        return torch.where(input_lengths > 0, rows, empty)


def lengths(name: str, given: Tensor, shape: tuple[int, ...], most: int) -> Tensor:
    """The lengths as int64, shaped as ℓ is."""
    if given.is_floating_point() or given.dtype is torch.bool:
        raise RefusedError(name, "must be of an integer type", name_of(given.dtype))
    if given.shape != shape and not (shape == () and given.shape == (1,)):
        raise RefusedError(name, f"must be {list(shape)}, one a sequence", list(given.shape))
    outside = given[(given < 0) | (given > most)]
    if len(outside):
        raise RefusedError(name, f"must be in 0..{most}", int(outside[0]))
    return given.long().reshape(shape)
