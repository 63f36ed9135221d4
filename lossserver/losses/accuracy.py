"""Accuracy."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossserver.losses.loss import Call, Loss, floating, require, tensor_of
from lossserver.registry import LOSSES

#: Numbers k that one call may ask for, each of which is a count of its own.
MAX_KS = 64


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class Accuracy(Loss):
    """How often the right class is among the k highest scores. A metric: it has no gradient.

    top_k = 100/N Σ_i [y_i is among the k highest of pred_i]

    Parameters:
        topk: k, or several: each gives an output.
        thresh: a score must be above it to count; None is no threshold.

    Inputs:
        pred: scores, float [N, C].
        target: class index [N]. One out of 0..C-1 is never right.

    Returns:
        For each k an output named `top1`, `top5`, in percent: float [1], or a
        scalar 0 where there are no rows, as upstream.

    Raises:
        ValueError: a k below 1 or, where there are rows, above C; over 64 of
            them; or shapes that do not fit.

    Source:
        MMDetection 3.3.0, `Accuracy`, which counts in float32.
    """

    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"top1"})

    topk: int | tuple[int, ...] = (1,)
    thresh: float | None = None

    def __post_init__(self) -> None:
        require(len(self.ks) > 0 and min(self.ks) >= 1, "topk", "must be 1 or more", self.topk)
        require(len(self.ks) <= MAX_KS, "topk", f"must not be over {MAX_KS} of them", len(self.ks))

    @property
    def ks(self) -> tuple[int, ...]:
        """Every k."""
        return (self.topk,) if isinstance(self.topk, int) else self.topk

    @property
    def names(self) -> frozenset[str]:
        """One for every k."""
        return frozenset(f"top{k}" for k in self.ks)

    @property
    def metrics(self) -> frozenset[str]:
        return self.names

    def check(self, call: Call) -> None:
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        require(pred.dim() == 2, "pred", "must be [N, C]", list(pred.shape))
        require(
            target.shape == pred.shape[:1],
            "target",
            f"must be [N], here {[len(pred)]}",
            list(target.shape),
        )
        rows, classes = pred.shape
        highest = max(self.ks)
        require(
            not rows or highest <= classes,
            "config.topk",
            f"must be at most {classes}, the number of classes",
            highest,
        )

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, target = tensor_of(call, "pred").detach(), tensor_of(call, "target")
        if not len(pred):
            return dict.fromkeys(sorted(self.names), pred.new_zeros(()))
        scores, classes = pred.topk(max(self.ks), dim=1)
        right = classes == target.unsqueeze(1)
        if self.thresh is not None:
            right &= scores > self.thresh
        found = right.to(pred.dtype)
        return {f"top{k}": found[:, :k].sum().view(1) * (100 / len(pred)) for k in self.ks}
