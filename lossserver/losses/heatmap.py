"""Losses of heat maps of key points."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossserver.losses.classes import check_indices
from lossserver.losses.cotangent import broadcast
from lossserver.losses.loss import Call, floating, require, tensor_of
from lossserver.losses.rows import Elementwise, Rows
from lossserver.registry import LOSSES

#: Keeps the logarithms of probabilities of 0 and 1 finite, as upstream.
EPS = 1e-12


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GaussianFocalLoss(Elementwise):
    """Focal loss of a heat map with a Gaussian around each key point.

    ℓ = -w₊ (1 - p)^α log(p + ε)               where t = 1             (eq. 1)
        -w₋ (1 - t)^γ p^α log(1 - p + ε)       everywhere;  ε = 1e-12

    With pos_inds the first line is over these places instead, whatever t is
    there, each line is reduced by itself, and the two are added: a mean is a
    mean over M places plus one over N · C elements.

    Parameters:
        alpha: focusing exponent α of the prediction.
        gamma: exponent γ of the distance from a peak.
        pos_weight: factor w₊ of the peaks.
        neg_weight: factor w₋ of everything else.
        reduction: "mean", "sum" or "none". The mean is over all elements;
            detectors pass the number of peaks as avg_factor.
        loss_weight: factor of the result.

    Inputs:
        pred: probabilities p, float, of any shape; [N, C] with pos_inds. Out of
            [0, 1] the loss may be NaN.
        target: heat map t, shaped like pred. A gradient flows into it.
        pos_inds: rows of the peaks, integer [M], in -N..N-1.
        pos_labels: their classes, integer [M], in 0..C-1; read only with
            pos_inds, which needs them.
        weight: broadcasts with pred. With pos_inds not read, as upstream.

    Returns:
        Unreduced float, shaped like pred, in nats. With pos_inds the sum of
        [M, 1] and [N, C], which must broadcast.

    Raises:
        ValueError: target not shaped like pred, a place out of pred, or shapes
            that do not fit.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244, eq. 1. Same values as
        MMDetection 3.3.0 `GaussianFocalLoss`.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "pos_inds", "pos_labels"})

    alpha: float = 2.0
    gamma: float = 4.0
    pos_weight: float = 1.0
    neg_weight: float = 1.0

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        peaks = self.pos_weight * self._peak(pred) * target.eq(1)
        return peaks + self.neg_weight * self._elsewhere(pred, target)

    def _peak(self, p: Tensor) -> Tensor:
        return -(p + EPS).log() * (1 - p).pow(self.alpha)

    def _elsewhere(self, p: Tensor, target: Tensor) -> Tensor:
        # In its own precision: a map that a head has drawn is float32, whatever is predicted.
        t = target if target.is_floating_point() else target.to(p.dtype)
        return -(1 - p + EPS).log() * p.pow(self.alpha) * (1 - t).pow(self.gamma)

    def rows(self, call: Call) -> Rows | None:
        if call.inputs.get("pos_inds") is None:
            return super().rows(call)
        self._check_places(call)
        return None

    def check(self, call: Call) -> None:
        if call.inputs.get("pos_inds") is None:
            super().check(call)
        else:
            self._check_places(call)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        if call.inputs.get("pos_inds") is None:
            return super().outputs(call)
        pred, target, places, labels = self._places(call)
        peaks = self.pos_weight * self._peak(pred[places.long(), labels.long()]).unsqueeze(1)
        elsewhere = self.neg_weight * self._elsewhere(pred, target)
        parts = [peaks + elsewhere] if self._unreduced(call) else [peaks, elsewhere]
        values = [self.ends(call, tuple(part.shape)).value(part) for part in parts]
        return {"loss": values[0] if len(values) == 1 else values[0] + values[1]}

    def _unreduced(self, call: Call) -> bool:
        return self.reduction_of(call) == "none"

    def _check_places(self, call: Call) -> None:
        pred, target, places, labels = self._places(call)
        floating(pred, "pred")
        require(pred.dim() == 2, "pred", "must be [N, C] with pos_inds", list(pred.shape))
        super().fit(pred=pred, target=target)
        require(places.dim() == 1, "pos_inds", "must be [M]", list(places.shape))
        require(
            labels.shape == places.shape,
            "pos_labels",
            f"must be shaped like pos_inds, {list(places.shape)}",
            list(labels.shape),
        )
        rows, classes = pred.shape
        check_indices(places, -rows, rows - 1, "pos_inds")
        check_indices(labels, 0, classes - 1, "pos_labels")
        shape = tuple(pred.shape)
        if self._unreduced(call):
            shape = broadcast("pos_inds", places.unsqueeze(1), shape, "pred")
        self.ends(call, shape)

    def _places(self, call: Call) -> list[Tensor]:
        return [tensor_of(call, name) for name in ("pred", "target", "pos_inds", "pos_labels")]
