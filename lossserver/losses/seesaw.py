"""Seesaw loss."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, refuse_outside
from lossserver.losses.cotangent import Cotangent
from lossserver.losses.loss import Call, floating, require, tensor_of
from lossserver.losses.remember import MAX_STATE, RememberingLoss
from lossserver.registry import LOSSES

#: Classes up to which the factors of all pairs are computed, as upstream does: 8 MiB of them.
MAX_TABLE = 1448


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SeesawLoss(RememberingLoss):
    """Seesaw loss, for classes of which some are rare: a common class pushes a rare one down less.

    The first C columns z of pred, on the rows of a class i < C:

    ℓ = -log(e^z_i / (Σ_{j≠i} M_ij C_ij e^z_j + e^z_i))
    M_ij = min(1, N_j / N_i)^p          mitigation;  N_i of all calls, this one's too
    C_ij = max(1, σ_j / max(σ_i, ε))^q  compensation;  σ = softmax(z)

    The last two columns are scores of object and of background: their softmax
    cross entropy, on all rows.

    Parameters:
        reduction: "mean", "sum" or "none"; of each output over its own rows.
        loss_weight: factor of the result.
        use_sigmoid: must be false.
        p: exponent of the mitigation; 0 or less is without.
        q: exponent of the compensation; 0 or less is without.
        num_classes: C, 1 to 1,048,575.
        eps: ε, floor of the divisor in the compensation.
        return_dict: two outputs, loss_cls_objectness and loss_cls_classes; if
            false their sum, `loss`.

    Inputs:
        pred: scores, float [N, C + 2].
        target: class index, integer [N], in 0..C where C is background.
        weight: [N].

    Returns:
        loss_cls_objectness, unreduced float [N], and loss_cls_classes, [K] of
        the K rows that are no background, in nats; without any, the scalar 0
        whatever the reduction. avg_factor divides both. M and C have no
        gradient. The state is cum_samples, float32 [C + 1], N of each class
        and of background, zeros before the first call; M is rounded to float32
        like it.

    Raises:
        ValueError: pred without C + 2 columns, a class index out of range, a
            weight not of [N], an unreduced sum of outputs of different rows, or
            a state that is not of C + 1 numbers.

    Source:
        Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, 2020,
        arXiv:2008.10032. Same values as MMDetection 3.3.0 `SeesawLoss`.
    """

    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss_cls_objectness", "loss_cls_classes"})

    use_sigmoid: bool = False
    p: float = 0.8
    q: float = 2.0
    num_classes: int = 1203
    eps: float = 1e-2
    return_dict: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.use_sigmoid, "use_sigmoid", "must be false: it is a softmax loss", True)
        require(
            1 <= self.num_classes < MAX_STATE,
            "num_classes",
            f"must be in 1..{MAX_STATE - 1}",
            self.num_classes,
        )

    @property
    def names(self) -> frozenset[str]:
        return self.OUTPUTS if self.return_dict else frozenset({"loss"})

    def initial(self) -> dict[str, Tensor]:
        return {"cum_samples": torch.zeros(self.num_classes + 1)}

    def check(self, call: Call) -> None:
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        require(
            pred.dim() == 2 and pred.shape[1] == self.num_classes + 2,
            "pred",
            f"must be [N, {self.num_classes + 2}], the classes, object and background",
            list(pred.shape),
        )
        for name in ("target", "weight"):
            if call.inputs.get(name) is not None:
                given, rows = list(tensor_of(call, name).shape), list(pred.shape[:1])
                require(given == rows, name, f"must be [N], here {rows}", given)
        highest = self.num_classes
        allowed = f"in 0..{highest}, where {highest} is background"
        labels = labels_of(target)
        refuse_outside(labels, 0, highest, allowed)
        own = self._own(labels)
        require(
            self.return_dict or self.reduction_of(call) != "none" or len(own) in {0, len(target)},
            "config.return_dict",
            "must be true for an unreduced loss, unless all rows or none have a class",
            self.return_dict,
        )
        self._ends(call, own)
        self.state_of(call)

    def step(self, call: Call) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        pred, labels = tensor_of(call, "pred"), tensor_of(call, "target").long()
        samples = self.state_of(call)["cum_samples"]
        news = torch.zeros_like(samples, dtype=torch.int64)
        samples = samples + news.index_add(0, labels, torch.ones_like(labels))
        own = self._own(labels)
        objectness, classes = self._ends(call, own)
        background = (labels == self.num_classes).long()
        outputs = {
            "loss_cls_objectness": objectness.value(
                F.cross_entropy(pred[:, -2:], background, reduction="none")
            ),
            "loss_cls_classes": classes.value(
                self._of_classes(pred[own, :-2], labels[own], samples[:-1])
            ),
        }
        if not self.return_dict:
            outputs = {"loss": outputs["loss_cls_classes"] + outputs["loss_cls_objectness"]}
        return outputs, {"cum_samples": samples}

    def _own(self, labels: Tensor) -> Tensor:
        """The rows that have a class. Their number is a shape: on CUDA this waits for the device."""
        return (labels < self.num_classes).nonzero().squeeze(1)

    def _ends(self, call: Call, own: Tensor) -> tuple[Cotangent, Cotangent]:
        """How the rows of each output become it."""
        given = call.inputs.get("weight")
        weight = None if given is None else tensor_of(call, "weight")
        objectness, classes = ("loss_cls_objectness", "loss_cls_classes")
        if not self.return_dict:
            objectness = classes = "loss"
        rows = tuple(tensor_of(call, "target").shape)
        of_objectness = self.ends(call, rows, weight=weight, output=objectness)
        if not len(own):
            return of_objectness, self.ends(call, (), output=classes)
        if weight is not None:
            weight = weight[own]
        return of_objectness, self.ends(call, (len(own),), weight=weight, output=classes)

    def _of_classes(self, scores: Tensor, labels: Tensor, samples: Tensor) -> Tensor:
        """ℓ of the rows that have a class; 0 of none."""
        if not len(scores):
            return scores.sum()
        labels = labels.unsqueeze(1)
        # log S_ij, which is 0 for j = i.
        shift = torch.zeros_like(scores)
        if self.p > 0:
            shift = shift + self._mitigation(samples, labels).to(scores.dtype).log()
        if self.q > 0:
            sure = scores.detach().log_softmax(1)
            floor = math.log(self.eps) if self.eps > 0 else -math.inf
            excess = sure - sure.gather(1, labels).clamp(min=floor)
            shift = shift + self.q * excess.clamp(min=0)
        return F.cross_entropy(scores + shift, labels.squeeze(1), reduction="none")

    def _mitigation(self, samples: Tensor, labels: Tensor) -> Tensor:
        """min(1, N_j / N_i)^p, float32, a row for each of the labels [n, 1]."""
        seen = samples.clamp(min=1)
        if len(seen) <= MAX_TABLE:
            # Upstream's own table of all pairs: a float32 power depends in its last bit on where in
            # a tensor it stands.
            return (seen / seen.unsqueeze(1)).clamp(max=1).pow(self.p)[labels.squeeze(1)]
        return (seen / seen[labels]).clamp(max=1).pow(self.p)
