"""Losses of keypoints: of their coordinates, and of their heat maps."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.losses.loss import require
from lossserver.losses.rows import Elementwise, Exact, RowwiseLoss
from lossserver.registry import LOSSES, RefusedError

#: σ of each of COCO's 17 keypoints, nose to ankles, as the share of an object's size by which
#: annotators disagree: pycocotools, `Params.setKpParams`.
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)


@dataclass(frozen=True, kw_only=True)
class Wing(Exact, Elementwise):
    """Logarithmic near the target, a straight line beyond."""

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(target.dtype is not torch.bool, "target", "must hold numbers", "bool")
        return super().fit(pred=pred, target=target)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        y = target.to(pred.dtype)
        return self.of_distance((y - pred).abs(), y)

    @abstractmethod
    def of_distance(self, d: Tensor, y: Tensor) -> Tensor:
        """ℓ, shaped like d, the distance from the target y."""


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class WingLoss(Wing):
    """Wing loss: absolute error with a steep slope near zero, for small errors of landmarks.

    ℓ = ω ln(1 + d / ε) where d < ω, else d - C;  d = |pred - target|      (eq. 5)
    C = ω - ω ln(1 + ω / ε)

    Parameters:
        omega: ω > 0, where the logarithm ends, in units of pred.
        epsilon: ε > 0, curvature, in units of pred; the slope at zero is ω / ε.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: float [N, ...]; the gradient where pred equals target is 0.
        target: shaped like pred.
        weight: broadcasts with pred: [N, ...], [N, 1], a scalar.

    Returns:
        Unreduced float [N, ...], in units of pred.

    Raises:
        ValueError: omega or epsilon ≤ 0, or shapes that do not fit.

    Source:
        Feng et al., Wing Loss for Robust Facial Landmark Localisation with
        Convolutional Neural Networks, 2018, arXiv:1711.06753, eq. 5.
    """

    omega: float = 10.0
    epsilon: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_not_positive(self, "omega", "epsilon")

    def of_distance(self, d: Tensor, y: Tensor) -> Tensor:
        c = self.omega - self.omega * math.log1p(self.omega / self.epsilon)
        return torch.where(d < self.omega, self.omega * torch.log1p(d / self.epsilon), d - c)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class AdaptiveWingLoss(Wing):
    """Adaptive wing loss of heat maps: a wing at their peaks, nearly a square in the background.

    ℓ = ω ln(1 + (d / ε)^(α - y)) where d < θ, else A d - C;  d = |y - pred|
    A = ω / (1 + (θ / ε)^(α - y)) · (α - y) (θ / ε)^(α - y - 1) / ε
    C = θ A - ω ln(1 + (θ / ε)^(α - y))

    where y is the target.

    Parameters:
        omega: ω > 0, factor of the logarithm.
        theta: θ > 0, where the logarithm ends.
        epsilon: ε > 0, curvature.
        alpha: α ≥ 2, a little above 2 in the paper, so that the loss is smooth
            at d = 0 even for y = 1.
        reduction: "mean", "sum" or "none". The mean is over all pixels.
        loss_weight: factor of the result.

    Inputs:
        pred: heat maps, float [N, ...], not activated further.
        target: heat maps y in [0, 1], shaped like pred.
        weight: broadcasts with pred: [N, ...], [N, K, 1, 1]. The paper's
            weighted loss map is 11 near a peak and 1 elsewhere.

    Returns:
        Unreduced float [N, ...].

    Raises:
        ValueError: alpha < 2, another parameter ≤ 0, or shapes that do not fit.

    Source:
        Wang et al., Adaptive Wing Loss for Robust Face Alignment via Heatmap
        Regression, 2019, arXiv:1904.07399.
    """

    omega: float = 14.0
    theta: float = 0.5
    epsilon: float = 1.0
    alpha: float = 2.1

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_not_positive(self, "omega", "theta", "epsilon")
        require(self.alpha >= 2, "alpha", "must be at least 2", self.alpha)

    def of_distance(self, d: Tensor, y: Tensor) -> Tensor:
        power = self.alpha - y
        ratio = self.theta / self.epsilon
        at_theta = ratio**power
        slope = self.omega / (1 + at_theta) * power * ratio ** (power - 1) / self.epsilon
        # A power of a distance beyond θ may overflow, and its gradient then is NaN, wanted or not.
        within = torch.where(d < self.theta, d, 0)
        near = self.omega * torch.log1p((within / self.epsilon) ** power)
        far = slope * (d - self.theta) + self.omega * torch.log1p(at_theta)
        return torch.where(d < self.theta, near, far)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class OKSLoss(Exact, RowwiseLoss):
    """One minus the object keypoint similarity, COCO's measure of poses.

    ℓ = 1 - Σ_k δ(v_k > 0) exp(-d_k² / (2 s² κ_k²)) / Σ_k δ(v_k > 0);  κ_k = 2 σ_k

    where d_k is the distance of keypoint k from its target, and s² the object's area.

    Parameters:
        sigmas: σ > 0 of each of K keypoints; None is COCO's, and K is 17.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: keypoints x, y, float [N, K, 2], in pixels.
        target: shaped like pred, in pixels.
        area: s² ≥ 0 [N], of the object's mask or box, in square pixels.
        visible: v [N, K]; keypoints not above 0 are not labelled, and may hold
            anything. Nothing is all of them.
        weight: [N].

    Returns:
        Unreduced float [N], in 0..1; 0 where no keypoint is labelled. Far from
        its target a keypoint has next to no gradient.

    Raises:
        ValueError: a sigma ≤ 0, as many sigmas as there are not keypoints, a
            negative area, or shapes that do not fit.

    Source:
        Maji et al., YOLO-Pose, 2022, arXiv:2204.06806, section 3.4; κ and what is
        added to the area, 2⁻⁵², are of COCO's evaluation, pycocotools `computeOks`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"pred", "target", "area"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"visible", "weight"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "area", "visible")

    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, sigma in enumerate(self.sigmas or ()):
            require(sigma > 0, f"sigmas[{i}]", "must be above 0", sigma)

    def fit(
        self, pred: Tensor, target: Tensor, area: Tensor, visible: Tensor | None = None
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        shape = tuple(pred.shape)
        require(pred.dim() == 3 and shape[2] == 2, "pred", "must be [N, K, 2]", list(shape))
        sigmas = COCO_SIGMAS if self.sigmas is None else self.sigmas
        rule = f"must have K = {len(sigmas)} keypoints, one a sigma"
        require(shape[1] == len(sigmas), "pred", rule, list(shape))
        require(target.dtype is not torch.bool, "target", "must hold numbers", "bool")
        require(area.dtype is not torch.bool, "area", "must hold numbers", "bool")
        inputs = {"pred": pred, "target": target, "area": area}
        if visible is not None:
            inputs["visible"] = visible
        for name, rows in (("target", shape), ("area", shape[:1]), ("visible", shape[:2])):
            if name in inputs and inputs[name].shape != rows:
                rule = f"must be {list(rows)} for pred {list(shape)}"
                raise RefusedError(name, rule, list(inputs[name].shape))
        require(not (area < 0).any(), "area", "must be at least 0", area[area < 0][:1].tolist())
        return inputs, shape[:1]

    def formula(
        self, pred: Tensor, target: Tensor, area: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        kappa = 2 * pred.new_tensor(COCO_SIGMAS if self.sigmas is None else self.sigmas)
        size = area.to(pred.dtype).unsqueeze(1) + 2**-52
        d = pred - target
        labelled = torch.ones_like(d[..., 0], dtype=torch.bool) if visible is None else visible > 0
        squares = d.masked_fill(~labelled.unsqueeze(2), 0).square().sum(2)
        unlike = -torch.expm1(-squares / (2 * size * kappa.square()))
        return unlike.sum(1) / labelled.sum(1).clamp(min=1)


def refuse_not_positive(loss: Wing, *names: str) -> None:
    """Refuse those of a loss's parameters that are not above 0."""
    for name in names:
        require(getattr(loss, name) > 0, name, "must be above 0", getattr(loss, name))
