"""Cross entropy of a linear layer's output, which is never made: a language model's last step.

The logits, hidden states times head, are by far the largest tensor of a language
model's training. Here a tile of them is made at a time, some tokens by some of
the vocabulary, and forgotten. The forward pass keeps the log-sum-exp of each
token; the backward pass makes the tiles anew, since from the log-sum-exp alone
the slope of each logit follows.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lossserver.losses.allowance import with_others
from lossserver.losses.loss import floating, require
from lossserver.losses.vectors import Fitted, VectorLoss, fit_tokens, tokens_left
from lossserver.registry import LOSSES

#: Logits of one tile, and how wide one is at most. 16 MiB of float32, of which two or three stand
#: at a time; tiles of this size cost a matrix product no speed.
TILE = 1 << 22
WIDTH = 1 << 13

#: Logits of one call, over all tiles: 32,768 tokens of a vocabulary of 131,072, a minute on a few
#: cores. A thin head must not be asked for hours.
MAX_LOGITS = 1 << 32


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropyLoss(VectorLoss):
    """Cross entropy of hidden states times a head, without the logits ever being in memory.

    ℓ = log Z - (1 - ε) x_y - ε / V Σ_v x_v + c (log Z)²
    log Z = log Σ_v exp(x_v),  x = head · pred + bias, or κ tanh(that / κ)

    Parameters:
        ignore_index: label whose tokens have loss and gradient 0.
        label_smoothing: ε in [0, 1].
        softcap: κ > 0, which logits do not exceed (Gemma 2 has 30); None is no cap.
        z_loss: coefficient c ≥ 0 of PaLM's z loss, added to ℓ; 0 is none.
        avg_non_ignore: a mean divides by the number of tokens not ignored, as
            torch's does, but 0 where all are. Otherwise by that of all tokens.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: hidden states, float [N, D] or [B, T, D].
        target: class index, integer [N] or [B, T], in 0..V-1 or ignore_index.
        head: weights of the last layer, float [V, D]. Their gradient is made
            only where wrt names them.
        bias: of the last layer, float [V].
        weight: of the tokens, [N]; [B, T] or [B, 1]. No mean divides by it: for
            a mask, set ignore_index, and avg_non_ignore.

    Returns:
        Unreduced float [N] or [B, T], in nats. Beyond inputs and gradients it
        takes some tens of MiB, whatever N · V. A token whose weight is 0 adds
        nothing to the head's gradient, even if it is NaN.

    Raises:
        ValueError: a parameter or label out of range, shapes that do not fit,
            or N · V over 2³².

    Source:
        Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models,
        2024, arXiv:2411.09009, section 4. Without softcap and z_loss the same
        values as a linear layer and torch's `CrossEntropyLoss`, unreduced.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "head"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "head", "bias")

    ignore_index: int = -100
    label_smoothing: float = 0.0
    softcap: float | None = None
    z_loss: float = 0.0
    avg_non_ignore: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        smooth = self.label_smoothing
        require(0 <= smooth <= 1, "label_smoothing", "must be in [0, 1]", smooth)
        capped = self.softcap is None or 0 < self.softcap < math.inf
        require(capped, "softcap", "must be finite and above 0", self.softcap)
        fits = 0 <= self.z_loss < math.inf
        require(fits, "z_loss", "must be finite and at least 0", self.z_loss)

    def fit(self, pred: Tensor, target: Tensor, head: Tensor, bias: Tensor | None = None) -> Fitted:
        fits = pred.dim() in (2, 3) and pred.shape[-1] > 0
        require(fits, "pred", "must be [N, D] or [B, T, D], D ≥ 1", list(pred.shape))
        shape, columns = tuple(pred.shape[:-1]), pred.shape[-1]
        floating(head, "head")
        fits = head.dim() == 2 and len(head) > 0 and head.shape[1] == columns
        require(fits, "head", f"must be [V, {columns}], V ≥ 1", list(head.shape))
        logits = with_others(math.prod(shape) * len(head), "logits")
        require(logits <= MAX_LOGITS, "pred", f"must not make over {MAX_LOGITS} logits", logits)
        labels = fit_tokens(target, shape, len(head), self.ignore_index)
        inputs = {"pred": pred, "target": labels, "head": head}
        if bias is None:
            return inputs, shape
        floating(bias, "bias")
        require(bias.shape == head.shape[:1], "bias", f"must be [{len(head)}]", list(bias.shape))
        return inputs | {"bias": bias}, shape

    def own_divisor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        return tokens_left(inputs["target"], self.ignore_index) if self.avg_non_ignore else None

    def formula(
        self, pred: Tensor, target: Tensor, head: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        layer = _Layer(loss=self, head=head.detach(), bias=None if bias is None else bias.detach())
        loss: Tensor = _Tiled.apply(  # type: ignore[no-untyped-call]
            layer, target.flatten(), pred.flatten(0, -2), head, bias
        )
        return loss.view(target.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """The linear layer, which gives its logits a tile at a time, and what the loss does with them."""

    loss: LinearCrossEntropyLoss
    head: Tensor
    bias: Tensor | None

    def rows(self, states: Tensor) -> Iterator[slice]:
        step = max(1, TILE // min(len(self.head), WIDTH))
        return (slice(start, start + step) for start in range(0, len(states), step))

    def columns(self) -> Iterator[slice]:
        return (slice(start, start + WIDTH) for start in range(0, len(self.head), WIDTH))

    def logits(self, states: Tensor, columns: slice) -> Tensor:
        """x [n, v] of hidden states [n, D] in these columns."""
        x = states @ self.head[columns].T
        if self.bias is not None:
            x += self.bias[columns]
        cap = self.loss.softcap
        return x if cap is None else x.div_(cap).tanh_().mul_(cap)

    def read(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of each token log Z, and (1 - ε) x_y + ε / V Σ_v x_v."""
        smoothing = self.loss.label_smoothing
        log_z = states.new_full((len(states),), -torch.inf)
        wanted = states.new_zeros(len(states))
        for columns in self.columns():
            x = self.logits(states, columns)
            log_z = torch.logaddexp(log_z, x.logsumexp(1))
            inside, own = _own(labels, columns, x)
            wanted += (1 - smoothing) * x.gather(1, own).squeeze(1).masked_fill(~inside, 0)
            if smoothing:  # 0 times a logit of -inf would not be nothing but NaN
                wanted += smoothing / len(self.head) * x.sum(1)
        return log_z, wanted

    def slopes(
        self, states: Tensor, labels: Tensor, log_z: Tensor, upstream: Tensor
    ) -> Iterator[tuple[slice, Tensor]]:
        """For some columns after others, dL/d(head · pred + bias) [n, v]."""
        smoothing, cap = self.loss.label_smoothing, self.loss.softcap
        silent = upstream == 0
        of_log_z = (upstream * (1 + 2 * self.loss.z_loss * log_z)).masked_fill(silent, 0)
        # A probability of 0 where nothing is asked, whatever the hidden state was.
        log_z = log_z.masked_fill(silent, torch.inf)
        for columns in self.columns():
            x = self.logits(states, columns)
            slope = (x - log_z.unsqueeze(1)).exp_().mul_(of_log_z.unsqueeze(1))
            inside, own = _own(labels, columns, x)
            of_own = (-(1 - smoothing) * upstream).masked_fill(~inside, 0)
            slope.scatter_add_(1, own, of_own.unsqueeze(1))
            slope -= (smoothing / len(self.head) * upstream).unsqueeze(1)
            yield columns, slope if cap is None else slope * (1 - (x / cap).square())


def _own(labels: Tensor, columns: slice, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each label is among the columns, bool [n], and where, int64 [n, 1]; else anywhere."""
    place = labels - columns.start
    inside = (place >= 0) & (place < x.shape[1])
    return inside, place.masked_fill(~inside, 0).unsqueeze(1)


class _Tiled(torch.autograd.Function):
    """ℓ [N] of a layer, labels [N], hidden states [N, D], and the layer's head and bias."""

    @staticmethod
    def forward(ctx: Any, layer: _Layer, labels: Tensor, hidden: Tensor, *_: Any) -> Tensor:
        log_z, wanted = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        for rows in layer.rows(hidden):
            log_z[rows], wanted[rows] = layer.read(hidden[rows], labels[rows])
        ctx.layer = layer
        ctx.save_for_backward(labels, hidden, log_z)
        value = log_z - wanted + layer.loss.z_loss * log_z.square()
        return value.masked_fill(labels == layer.loss.ignore_index, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer = ctx.layer
        labels, hidden, log_z = ctx.saved_tensors
        upstream = upstream.masked_fill(labels == layer.loss.ignore_index, 0)
        wanted = zip(ctx.needs_input_grad[2:], (hidden, layer.head, layer.bias), strict=True)
        grads = [torch.zeros_like(one) if needed else None for needed, one in wanted]
        of_hidden, of_head, of_bias = grads
        for rows in layer.rows(hidden):
            states = hidden[rows].masked_fill((upstream[rows] == 0).unsqueeze(1), 0)
            given = states, labels[rows], log_z[rows], upstream[rows]
            for columns, slope in layer.slopes(*given):
                if of_hidden is not None:
                    of_hidden[rows].addmm_(slope, layer.head[columns])
                if of_head is not None:
                    of_head[columns].addmm_(slope.T, states)
                if of_bias is not None:
                    of_bias[columns] += slope.sum(0)
        return None, None, *grads
