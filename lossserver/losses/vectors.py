"""Vectors, one a row: what the losses over embeddings share, and those over logits of tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import floating, require
from lossserver.losses.rows import Exact, RowwiseLoss

#: Nobody's is so high; its square is still a number that float32 holds.
MAX_TEMPERATURE = 1e6

Fitted = tuple[dict[str, Any], tuple[int, ...]]


class VectorLoss(Exact):
    """A loss of vectors that read each other: it gives a number a vector, weighted as such."""


class LogitsLoss(Exact, RowwiseLoss):
    """A loss of logits [N, V] or [B, T, V] that gives a number a token, [N] or [B, T].

    A batch is made along the first dimension, so in [B, T] a row is a sequence;
    but what is masked is masked token by token.
    """

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero.unsqueeze(-1)


def unit(vectors: Tensor) -> Tensor:
    """The vectors with length 1: x / max(‖x‖, 1e-12), as torch.nn.functional.normalize has it.

    So zeros stay zeros, and their gradient is finite: 10¹² times that of the result.
    """
    return F.normalize(vectors, dim=-1)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """[N, M]: the cosine of each row of `left` with each row of `right`."""
    return unit(left) @ unit(right).T


def entropy(scores: Tensor, own: Tensor) -> Tensor:
    """[N]: -log softmax(scores)_own of scores [N, C], `own` being int64 [N].

    As log(1 + e^r), r being the others' log-sum-exp over the own score: so the
    loss and slope of a sure answer do not cancel to nothing in float32.
    """
    column = own.unsqueeze(1)
    others = (scores - scores.gather(1, column)).scatter(1, column, -torch.inf)
    return F.softplus(others.logsumexp(1), threshold=40)


def fit_vectors(vectors: Tensor, name: str, columns: int | None = None) -> None:
    """Refuse what is not floating [N, D], D being `columns` where that is given."""
    floating(vectors, name)
    # No vector may come for free, since there are pairs of them: [8192, 0] costs no byte.
    wanted = "[N, D], D ≥ 1" if columns is None else f"[N, {columns}]"
    fits = vectors.dim() == 2 and vectors.shape[1] > 0 and columns in (None, vectors.shape[1])
    require(fits, name, f"must be vectors {wanted}", list(vectors.shape))


def fit_pairs(pred: Tensor, target: Tensor) -> int:
    """The number of rows of two floating [N, D]; anything else is refused."""
    fit_vectors(pred, "pred")
    floating(target, "target")
    require(
        target.shape == pred.shape,
        "target",
        f"must be shaped like pred, {list(pred.shape)}",
        list(target.shape),
    )
    return len(pred)


def fit_number(number: Tensor, name: str) -> None:
    """Refuse what is not one floating number, [] or [1]."""
    floating(number, name)
    require(number.shape in ((), (1,)), name, "must be one number, [] or [1]", list(number.shape))


def fit_labels(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Class indices of that shape as int64."""
    require(
        tuple(target.shape) == shape,
        "target",
        f"must be class indices {list(shape)}",
        list(target.shape),
    )
    return labels_of(target)


def fit_tokens(target: Tensor, shape: tuple[int, ...], classes: int, ignored: int) -> Tensor:
    """Class indices of that shape as int64, each in 0..classes-1 or ignored."""
    labels = fit_labels(target, shape)
    allowed = f"in 0..{classes - 1}, or {ignored} to be ignored"
    refuse_outside(labels[labels != ignored], 0, classes - 1, allowed)
    return labels


def tokens_left(target: Tensor, ignored: int) -> float:
    """How many tokens are not ignored, and at least 1, for a mean to divide by."""
    return float((target != ignored).sum().clamp(min=1))


def fit_logits(logits: Tensor) -> tuple[int, ...]:
    """The shape of the tokens of floating logits [N, V] or [B, T, V]; anything else is refused."""
    # No token may come for free: [10¹², 0] costs no byte.
    fits = logits.dim() in (2, 3) and logits.shape[-1] > 0
    require(fits, "pred", "must be logits [N, V] or [B, T, V], V ≥ 1", list(logits.shape))
    return tuple(logits.shape[:-1])


def refuse_temperature(field: str, given: float) -> None:
    """Refuse a temperature that is not above 0, or whose square may be too large a number."""
    fits = 0 < given <= MAX_TEMPERATURE
    require(fits, field, f"must be above 0 and at most {MAX_TEMPERATURE:.0e}", given)


def without_diagonal(scores: Tensor) -> Tensor:
    """[N, N] with the lowest number on the diagonal: nothing is compared with itself.

    Not -inf, whose slope is NaN in a row where there is nothing else.
    """
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.masked_fill(itself, torch.finfo(scores.dtype).min)
