"""The losses of torch.nn that bring a last layer of their own, under the scope torch.

Its parameters travel as inputs, and their gradients are asked for as those of any input.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.loss import floating, refuse_pairs, require
from lossserver.losses.rows import Exact
from lossserver.losses.torch_nn import Smoothed
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.LinearCrossEntropyLoss")
@dataclass(frozen=True, kw_only=True)
class LinearCrossEntropyLoss(Smoothed):
    """Softmax cross entropy of a linear layer's output: the last layer and the loss in one.

    ℓ = CrossEntropyLoss(W pred + b, target)

    Parameters:
        in_features: elements F of a row of pred.
        num_classes: C.
        out_features: dimensions [d, ...] of the labels of a row; () is one label.
        bias: there is a b.
        weight: a factor a class; None is 1.
        ignore_index: label for which ℓ is 0; None is -100.
        label_smoothing: in [0, 1], as of CrossEntropyLoss.
        reduction: "mean", "sum" or "none", as of CrossEntropyLoss.
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: the layer's input, float [N, F], or [F] of a lone row.
        target: class index, integer [N, d, ...], or probabilities [N, C, d, ...];
            of a lone row [] or [C].
        linear_weight: W, torch's linear.weight, float [C · d · ..., F].
        linear_bias: b, torch's linear.bias, float [C · d · ...], if there is one.
        weight: factor of ℓ that broadcasts with it, not of a class; torch has none.

    Returns:
        Unreduced float [N, d, ...], in nats.

    Raises:
        ValueError: sizes that are not the parameters', over 2²⁶ logits, or what
            CrossEntropyLoss refuses.

    Source:
        PyTorch 2.13, `torch.nn.LinearCrossEntropyLoss`. Its `options`, how to cut
        the work into chunks, change no value and are no parameter here.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "linear_weight"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "linear_bias"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "linear_weight", "linear_bias")

    in_features: int
    num_classes: int
    out_features: tuple[int, ...] = ()
    bias: bool = False
    ignore_index: int | None = None

    def fit(
        self, *, pred: Tensor, target: Tensor, linear_weight: Tensor, **bias: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        rows(pred, self.in_features)
        if self.out_features and pred.dim() == 1:
            raise RefusedError("pred", "must be [N, F] where there are out_features", [len(pred)])
        outputs = math.prod(self.out_features, start=self.num_classes)
        matrix("linear_weight", linear_weight, (outputs, self.in_features))
        optional("linear_bias", bias.get("linear_bias"), (outputs,), wanted=self.bias)
        logits = self._logits(pred)
        refuse_pairs(math.prod(logits), "rows and classes")
        labels, shape = self.fit_labels(logits, target)
        return {"pred": pred, "target": labels, "linear_weight": linear_weight, **bias}, shape

    def _logits(self, pred: Tensor) -> tuple[int, ...]:
        return (*pred.shape[:-1], self.num_classes, *self.out_features)

    def formula(
        self,
        pred: Tensor,
        target: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None = None,
    ) -> Tensor:
        logits = F.linear(pred, linear_weight, linear_bias)
        return self.entropy(logits.reshape(self._logits(pred)), target)


@LOSSES.register_as("torch.AdaptiveLogSoftmaxWithLoss")
@dataclass(frozen=True, kw_only=True)
class AdaptiveLogSoftmaxWithLoss(Exact):
    """Softmax cross entropy of many classes, the rare ones in clusters of their own.

    ℓ = -log softmax(W pred + b)_y                                         y < c_1
    ℓ = -log softmax(W pred + b)_k' - log softmax(V_k U_k pred)_y'  c_k ≤ y < c_k+1

    where k' = c_1 + k - 1 stands for cluster k, and y' = y - c_k.

    Parameters:
        in_features: elements F of a row of pred.
        n_classes: C, the most frequent first.
        cutoffs: c_1, c_2, ..., increasing, in 1..C-1; the last cluster ends at C.
        div_value: torch's rule for H_k; here H_k is what was sent, and this is not read.
        head_bias: there is a b.
        reduction: "mean", which is torch's, "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: the layer's input, float [N, F], or [F] of a lone row.
        target: class index y, integer [N], in 0..C-1; of a lone row [].
        head_weight: W, torch's head.weight, float [c_1 + clusters, F].
        head_bias: b, torch's head.bias, float [c_1 + clusters], if there is one.
        tail: for each cluster the list [U_k, V_k], float [H_k, F] and
            [c_k+1 - c_k, H_k]: torch's tail[k][0].weight and tail[k][1].weight.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float [N], in nats: torch's `output`, with the other sign.

    Raises:
        ValueError: cutoffs out of order, a class index out of range, sizes that
            are not the parameters', or over 2²⁶ logits.

    Source:
        Grave et al., Efficient Softmax Approximation for GPUs, 2016,
        arXiv:1609.04309. PyTorch, `torch.nn.AdaptiveLogSoftmaxWithLoss`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "head_weight", "tail"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "head_bias"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "head_weight", "tail", "head_bias")
    TREES: ClassVar[frozenset[str]] = frozenset({"tail"})

    in_features: int
    n_classes: int
    cutoffs: tuple[int, ...]
    div_value: float = 4.0
    head_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (0, *self.cutoffs, self.n_classes)
        increasing = all(low < high for low, high in itertools.pairwise(bounds))
        rule = f"must be whole numbers in 1..{self.n_classes - 1}, increasing"
        require(increasing and len(self.cutoffs) > 0, "cutoffs", rule, list(self.cutoffs))

    def fit(
        self, *, pred: Tensor, target: Tensor, head_weight: Tensor, tail: Any, **bias: Tensor
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        shape = rows(pred, self.in_features)
        require(target.shape == shape, "target", f"must be {list(shape)}", list(target.shape))
        labels = labels_of(target)
        refuse_outside(labels, 0, self.n_classes - 1, f"in 0..{self.n_classes - 1}")
        heads = self.cutoffs[0] + len(self.cutoffs)
        matrix("head_weight", head_weight, (heads, self.in_features))
        optional("head_bias", bias.get("head_bias"), (heads,), wanted=self.head_bias)
        self._fit_tail(tail)
        counts = self._cluster(labels).reshape(-1).bincount(minlength=len(tail) + 1).tolist()
        logits = labels.numel() * heads
        for count, (_, wide) in zip(counts[1:], tail, strict=True):
            logits += count * len(wide)
        refuse_pairs(logits, "rows and classes")
        return {
            "pred": pred,
            "target": labels,
            "head_weight": head_weight,
            "tail": tail,
            **bias,
        }, shape

    def _fit_tail(self, tail: Any) -> None:
        sizes = [high - low for low, high in itertools.pairwise((*self.cutoffs, self.n_classes))]
        rule = f"must be a list of {len(sizes)} lists of two tensors"
        if not isinstance(tail, list) or len(tail) != len(sizes):
            given = len(tail) if isinstance(tail, list) else type(tail).__name__
            raise RefusedError("tail", rule, given)
        for i, (pair, size) in enumerate(zip(tail, sizes, strict=True)):
            whole = isinstance(pair, list) and [isinstance(one, Tensor) for one in pair]
            require(whole == [True, True], "tail", rule, f"another thing at {i}")
            narrow, wide = pair
            matrix(f"tail[{i}][0]", narrow, (len(narrow) if narrow.dim() else 0, self.in_features))
            matrix(f"tail[{i}][1]", wide, (size, len(narrow)))

    def _cluster(self, labels: Tensor) -> Tensor:
        """Of each label; 0 is the head."""
        bounds = torch.tensor(self.cutoffs, device=labels.device)
        return torch.bucketize(labels, bounds, right=True)

    def formula(
        self,
        pred: Tensor,
        target: Tensor,
        head_weight: Tensor,
        tail: list[list[Tensor]],
        head_bias: Tensor | None = None,
    ) -> Tensor:
        pred, labels = pred.reshape(-1, self.in_features), target.reshape(-1)
        cluster = self._cluster(labels)
        place = torch.where(cluster == 0, labels, self.cutoffs[0] + cluster - 1)
        head = F.linear(pred, head_weight, head_bias).log_softmax(1)
        found = head.gather(1, place.unsqueeze(1)).squeeze(1)
        for i, (narrow, wide) in enumerate(tail):
            here = (cluster == i + 1).nonzero().squeeze(1)
            inside = F.linear(F.linear(pred[here], narrow), wide).log_softmax(1)
            place = (labels[here] - self.cutoffs[i]).unsqueeze(1)
            found = found.index_add(0, here, inside.gather(1, place).squeeze(1))
        return -found.reshape(target.shape)


def rows(pred: Tensor, features: int) -> torch.Size:
    """The shape of what is left of pred [N, F] or [F] without its features."""
    fits = pred.dim() in (1, 2) and pred.shape[-1] == features > 0
    require(fits, "pred", f"must be [N, {features}] or [{features}]", list(pred.shape))
    return pred.shape[:-1]


def matrix(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse a parameter that is not floating point, or of another shape."""
    floating(given, name)
    require(tuple(given.shape) == shape, name, f"must be {list(shape)}", list(given.shape))


def optional(name: str, given: Tensor | None, shape: tuple[int, ...], *, wanted: bool) -> None:
    """Refuse a bias that the config says is not there, or that is missing."""
    require(
        (given is not None) == wanted,
        name,
        f"must {'' if wanted else 'not '}be sent",
        "nothing" if given is None else list(given.shape),
    )
    if given is not None:
        matrix(name, given, shape)
