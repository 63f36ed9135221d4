"""Equalization loss v2."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossserver.losses.classes import labels_of, one_hot, refuse_outside, sigmoid_entropy
from lossserver.losses.cotangent import Cotangent
from lossserver.losses.loss import Call, floating, require, tensor_of
from lossserver.losses.remember import MAX_STATE, RememberingLoss
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class EQLV2Loss(RememberingLoss):
    """Equalization loss v2: a class that was pushed down more than up is pushed up more.

    L = 1/N Σ_rows Σ_c w_c BCE(pred_c, t_c)
    w_c = 1 + α (1 - f(r_c)) where t_c = 1, else f(r_c);  f(r) = 1 / (1 + e^(-γ (r - μ)))
    r_c = Σ |gradient| of positives / Σ |gradient| of negatives, of all calls before

    The last column, background, has w = 1.

    Parameters:
        reduction: has no effect, as upstream.
        loss_weight: factor of the result.
        use_sigmoid: has no effect, as upstream: it is a sigmoid loss.
        class_weight: has no effect, as upstream.
        num_classes: C, 1 to 349,525.
        use_distributed: must be false: a call is of one process.
        mu: μ, the ratio r at which a negative counts half.
        alpha: α, by how much a positive may count more.
        gamma: γ, steepness of f.
        vis_grad: has no effect, as upstream.
        test_with_obj: has no effect on the loss.

    Inputs:
        pred: logits, float [N, C + 1].
        target: class index, integer [N], in 0..C where C is background; below 0
            it counts from the end, as upstream.
        weight: taken and not looked at, as upstream; so are avg_factor and
            reduction_override.

    Returns:
        A float scalar, in nats; NaN without rows. The state is pos_grad,
        neg_grad (zeros before the first call) and their ratio pos_neg (100),
        each float32 [C]; f is computed in float32 like it. A call's own
        gradients count from the next call on.

    Raises:
        ValueError: pred without C + 1 columns, a class index out of range, or a
            state that is not of C numbers each.

    Source:
        Tan et al., Equalization Loss v2: A New Gradient Balance Approach for
        Long-tailed Object Detection, 2020, arXiv:2012.08548. Same values as
        MMDetection 3.3.0 `EQLV2Loss`.
    """

    use_sigmoid: bool = True
    class_weight: tuple[float, ...] | None = None
    num_classes: int = 1203
    use_distributed: bool = False
    mu: float = 0.8
    alpha: float = 4.0
    gamma: float = 12.0
    vis_grad: bool = False
    test_with_obj: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        most = MAX_STATE // 3
        require(
            1 <= self.num_classes <= most, "num_classes", f"must be in 1..{most}", self.num_classes
        )
        require(
            not self.use_distributed,
            "use_distributed",
            "must be false: a call is of one process",
            True,
        )

    def initial(self) -> dict[str, Tensor]:
        return {
            "pos_grad": torch.zeros(self.num_classes),
            "neg_grad": torch.zeros(self.num_classes),
            "pos_neg": torch.full((self.num_classes,), 100.0),
        }

    def check(self, call: Call) -> None:
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        columns = self.num_classes + 1
        require(
            pred.dim() == 2 and pred.shape[1] == columns,
            "pred",
            f"must be [N, {columns}], the classes and background",
            list(pred.shape),
        )
        rows, given = list(pred.shape[:1]), list(target.shape)
        require(given == rows, "target", f"must be [N], here {rows}", given)
        allowed = f"in {-columns}..{columns - 1}, where {columns - 1} and -1 are background"
        refuse_outside(labels_of(target), -columns, columns - 1, allowed)
        self._end(call)
        self.state_of(call)

    def step(self, call: Call) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        pred, labels = tensor_of(call, "pred"), tensor_of(call, "target").long()
        state = self.state_of(call)
        truth = one_hot(labels % pred.shape[1], pred)
        of_negatives = 1 / (1 + torch.exp(-self.gamma * (state["pos_neg"] - self.mu)))
        of_negatives = torch.cat([of_negatives, of_negatives.new_ones(1)]).to(pred.dtype)
        of_positives = 1 + self.alpha * (1 - of_negatives)
        weight = torch.where(truth > 0, of_positives, of_negatives)
        rows = (sigmoid_entropy(pred, truth) * weight).sum(1)
        slopes = (pred.detach().sigmoid() - truth).abs() * weight
        pos_grad = (state["pos_grad"] + (slopes * truth).sum(0)[:-1]).float()
        neg_grad = (state["neg_grad"] + (slopes * (1 - truth)).sum(0)[:-1]).float()
        return {"loss": self._end(call).value(rows)}, {
            "pos_grad": pos_grad,
            "neg_grad": neg_grad,
            "pos_neg": pos_grad / (neg_grad + 1e-10),
        }

    def _end(self, call: Call) -> Cotangent:
        """A mean over the rows, whatever the call says."""
        own = replace(call, reduction_override="mean", avg_factor=None)
        return self.ends(own, tuple(tensor_of(call, "target").shape))
