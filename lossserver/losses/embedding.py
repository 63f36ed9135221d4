"""Losses of embeddings: positives apart from negatives, objects apart from each other."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import check_indices, labels_of
from lossserver.losses.loss import Call, Loss, floating, name_of, refuse_pairs, require, tensor_of
from lossserver.losses.rows import RowwiseLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class MultiPosCrossEntropyLoss(RowwiseLoss):
    """Cross entropy of scores with any number of positives and negatives a row.

    ℓ = log(1 + Σ_n Σ_p exp(x_n - x_p)),  over negatives n and positives p     (eq. 7)

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: scores x, float [N, M], such as the similarities of N objects of
            one frame to M of another.
        target: [N, M]: 1 or above is positive, 0 is negative. Any other number
            counts as a positive and a negative, both with a score of 0, as upstream.
        weight: broadcasts with the loss, [N].

    Returns:
        Unreduced float [N], in nats; 0 where a row has no positives, or no negatives.

    Raises:
        ValueError: pred not [N, M], or target not shaped like it.

    Source:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object
        Tracking, 2020, arXiv:2006.06664, eq. 7. Same values as MMDetection
        3.3.0 `MultiPosCrossEntropyLoss`, without its memory of N · M².
    """

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() == 2, "pred", "must be [N, M]", list(pred.shape))
        inputs, shape = super().fit(pred=pred, target=target)
        return inputs, shape[:1]

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        positive, negative = target >= 1, target == 0
        x = pred.masked_fill(~(positive | negative), 0)
        # Not -inf: the log-sum-exp of nothing would have a NaN for a gradient.
        nothing = torch.finfo(x.dtype).min / 4
        # The sums separate. Σ_p goes to each x_n, so that what is exponentiated are differences.
        minus_p = (-x).masked_fill(negative, nothing).logsumexp(1, keepdim=True)
        pairs = (x.masked_fill(positive, nothing) + minus_p).logsumexp(1)
        return F.softplus(pairs, threshold=40)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class TripletLoss(Loss):
    """Triplet loss with the hardest positive and negative of each anchor in the batch.

    L = w/N Σ_i max(0, m + max_p |x_i - x_p| - min_n |x_i - x_n|)      (eq. 5)

    over p of the class of i, itself included, and n of any other; lengths are at least 1e-6.

    Parameters:
        margin: m.
        loss_weight: w.
        hard_mining: must be true; upstream has no other form.

    Inputs:
        pred: embeddings x, float [N, D].
        target: class index, integer [N], of at least two classes.

    Returns:
        A scalar, in units of pred. Among equally hard ones a gradient is shared.

    Raises:
        ValueError: hard_mining false, fewer than two classes, far too many rows,
            or shapes that do not fit.

    Source:
        Hermans et al., In Defense of the Triplet Loss, 2017, arXiv:1703.07737,
        eq. 5, with a mean for the sum. Same values as MMDetection 3.3.0
        `TripletLoss`; the distance of a row from itself, which there is
        rounding noise, is 0 here.
    """

    margin: float = 0.3
    loss_weight: float = 1.0
    hard_mining: bool = True

    def __post_init__(self) -> None:
        require(self.hard_mining, "hard_mining", "must be true: there is no other form", False)

    def check(self, call: Call) -> None:
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        require(pred.dim() == 2, "pred", "must be [N, D]", list(pred.shape))
        require(
            target.shape == pred.shape[:1],
            "target",
            f"must be [N], here {[len(pred)]}",
            list(target.shape),
        )
        refuse_pairs(len(pred) ** 2, "rows")
        labels = labels_of(target)
        require(
            bool((labels != labels[:1]).any()),
            "target",
            "must hold at least two classes: an anchor needs a negative",
            "fewer",
        )

    def outputs(self, call: Call) -> dict[str, Tensor]:
        x, labels = tensor_of(call, "pred"), tensor_of(call, "target")
        x = x - x.detach().mean(0)  # distances stay, and lose less to rounding
        lengths = x.square().sum(1)
        squares = lengths.unsqueeze(1) + lengths - 2 * x @ x.T
        others = labels.unsqueeze(1) != labels
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        positive = squares.masked_fill(others | itself, 0).amax(1)
        negative = squares.masked_fill(~others, math.inf).amin(1)
        far, near = (square.clamp(min=1e-12).sqrt() for square in (positive, negative))
        return {"loss": (self.margin + far - near).clamp(min=0).mean() * self.loss_weight}


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class AssociativeEmbeddingLoss(Loss):
    """Associative embedding loss: the two corners of an object together, objects apart.

    pull = w_pull Σ_k [(a_k - m_k)² + (b_k - m_k)²] / n;  m_k = (a_k + b_k) / 2   (eq. 4)
    push = w_push Σ_(j ≠ k) max(0, 1 - |m_j - m_k|) / (n (n - 1))                 (eq. 5)

    for each image with n embeddings, summed over images. Of embeddings of M
    channels each channel is one of its own, as upstream: n is M times the
    number of objects.

    Parameters:
        pull_weight: w_pull.
        push_weight: w_push.

    Inputs:
        pred: embeddings a at top-left corners, float [B, M, H, W].
        target: embeddings b at bottom-right corners, float [B, M, H', W'].
        match: for each image a list of objects [[top, left], [bottom, right]],
            whole numbers in cells, or an integer tensor [K, 2, 2]; -1 is the
            last cell, as upstream.

    Returns:
        Two scalars, `pull` and `push`. Images without objects add 0.

    Raises:
        ValueError: a corner out of the map, far too many pairs, or shapes that do not fit.

    Source:
        Newell et al., Associative Embedding, 2016, arXiv:1611.05424; Law & Deng,
        CornerNet, 2018, arXiv:1808.01244, eq. 4 and 5. Same values as
        MMDetection 3.3.0 `AssociativeEmbeddingLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "match"})
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"pull", "push"})

    pull_weight: float = 0.25
    push_weight: float = 0.25

    def check(self, call: Call) -> None:
        pred, target = (floating(tensor_of(call, name), name) for name in ("pred", "target"))
        require(
            pred.dim() == 4 and (len(pred) == 0 or pred.numel() > 0),
            "pred",
            "must be [B, M, H, W], and not empty where there are images",
            list(pred.shape),
        )
        require(
            target.dim() == 4 and target.shape[:2] == pred.shape[:2],
            "target",
            f"must be [B, M, H, W] of as many images and channels as pred {list(pred.shape)}",
            list(target.shape),
        )
        match = call.inputs["match"]
        require(
            isinstance(match, list) and len(match) == len(pred),
            "match",
            f"must be a list with an item for each of {len(pred)} images",
            f"{len(match)} items" if isinstance(match, list) else type(match).__name__,
        )
        pairs = 0
        for i, one in enumerate(match):
            objects = objects_of(one, f"match[{i}]")
            if not len(objects):
                continue  # a call may be of nothing but such images, as many as it has bytes
            for corner, embeddings in enumerate((pred, target)):
                for axis, size in enumerate(embeddings.shape[2:]):
                    check_indices(objects[:, corner, axis], -size, size - 1, f"match[{i}]")
            pairs += (len(objects) * pred.shape[1]) ** 2
        refuse_pairs(pairs, "embeddings")

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, target = tensor_of(call, "pred"), tensor_of(call, "target")
        nothing = pred[:0].sum()
        pull, push = [nothing], [nothing]
        for i, one in enumerate(call.inputs["match"]):
            (top, left), (bottom, right) = objects_of(one, "match").to(pred.device).permute(1, 2, 0)
            a, b = pred[i][:, top, left].flatten(), target[i][:, bottom, right].flatten()
            n = len(a)
            if n:
                # (a - m)² + (b - m)², of m halfway.
                pull.append((a - b).square().sum() / (2 * n))
            if n > 1:
                m = (a + b) / 2
                near = (1 - (m.unsqueeze(1) - m).abs()).relu()
                push.append(2 * near.triu(1).sum() / (n * (n - 1)))
        return {
            "pull": torch.stack(pull).sum() * self.pull_weight,
            "push": torch.stack(push).sum() * self.push_weight,
        }


def objects_of(given: Any, field: str) -> Tensor:
    """The objects of an image, [K, 2, 2] int64: corners, and row and column of each.

    Raises:
        RefusedError: they are something else.
    """
    rule = "must be a list of objects [[top, left], [bottom, right]], or integers [K, 2, 2]"
    if isinstance(given, Tensor):
        whole = not given.is_floating_point() and given.dtype is not torch.bool
        require(whole, field, rule, name_of(given.dtype))
        require(given.dim() == 3 and given.shape[1:] == (2, 2), field, rule, list(given.shape))
        return given.long()
    require(isinstance(given, list), field, rule, type(given).__name__)
    for one in given:
        require(is_object(one), field, rule, repr(one)[:64])
    return torch.tensor(given, dtype=torch.int64).reshape(len(given), 2, 2)


def is_object(given: Any) -> bool:
    """Whether it is [[top, left], [bottom, right]], in whole numbers."""
    corners = given if isinstance(given, list) and len(given) == 2 else [None]
    return all(
        isinstance(corner, list) and len(corner) == 2 and all(type(x) is int for x in corner)
        for corner in corners
    )
