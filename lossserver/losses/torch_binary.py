"""The losses of torch.nn of yes and no, under the scope torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import sigmoid_entropy
from lossserver.losses.cotangent import broadcast
from lossserver.losses.loss import floating, require
from lossserver.losses.torch_nn import Alike, Vectors, one_a_class
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register_as("torch.BCELoss")
@dataclass(frozen=True, kw_only=True)
class BCELoss(Alike):
    """Binary cross entropy of probabilities.

    ℓ = -t log pred - (1 - t) log(1 - pred), each log at least -100

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: probabilities in [0, 1], float, of any shape.
        target: t in [0, 1], numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; in torch of the constructor.

    Returns:
        Unreduced float shaped like pred, in nats. The slope is at most 1e12. A
        NaN, which torch refuses, gives NaN.

    Raises:
        ValueError: a number outside [0, 1], or target not shaped like pred.

    Source:
        PyTorch, `torch.nn.BCELoss`.
    """

    @property
    def checks_pred(self) -> bool:
        """It must be between 0 and 1."""
        return True

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        for name, given in inputs.items():
            outside = given[(given < 0) | (given > 1)]
            if len(outside):
                raise RefusedError(name, "must be in [0, 1]", float(outside[0]))
        return super().fit(**inputs)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        # torch asserts that everything is in [0, 1], on CUDA inside the kernel, where a failure
        # kills the context; a NaN fails it. So a NaN goes around it.
        both = pred + target
        p, t = (x.masked_fill(both.isnan(), 0.5) for x in (pred, target.to(pred.dtype)))
        entropy = F.binary_cross_entropy(p, t, reduction="none")
        return torch.where(both.isnan(), both, entropy)


@LOSSES.register_as("torch.BCEWithLogitsLoss")
@dataclass(frozen=True, kw_only=True)
class BCEWithLogitsLoss(Alike):
    """Binary cross entropy of logits.

    ℓ = -w t log σ(pred) - (1 - t) log(1 - σ(pred))

    Parameters:
        pos_weight: w along the last dimension of pred, or one number; None is 1.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: logits, float, of any shape [..., C].
        target: t, numbers shaped like pred, usually in [0, 1].
        pos_weight: w in place of the parameter, float, broadcasts with pred:
            [C, 1, 1] for maps [N, C, H, W]. Such a call is computed alone.
        weight: factor of ℓ that broadcasts with it; in torch of the constructor.

    Returns:
        Unreduced float shaped like pred, in nats.

    Raises:
        ValueError: target not shaped like pred, or a pos_weight that does not fit.

    Source:
        PyTorch, `torch.nn.BCEWithLogitsLoss`.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "pos_weight"})
    ROWS: ClassVar[tuple[str, ...]] = ("pred", "target", "pos_weight")

    pos_weight: tuple[float, ...] | None = None

    def fit(
        self, pred: Tensor, target: Tensor, pos_weight: Tensor | None = None
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        inputs, shape = super().fit(pred=pred, target=target)
        if pos_weight is not None:
            floating(pos_weight, "pos_weight")
            fits = broadcast("pos_weight", pos_weight, shape, "pred") == shape
            rule = f"must broadcast to pred, {list(shape)}"
            require(fits, "pos_weight", rule, list(pos_weight.shape))
            return {**inputs, "pos_weight": pos_weight}, shape
        if self.pos_weight is None or len(self.pos_weight) != 1:
            one_a_class("pos_weight", self.pos_weight, shape[-1] if shape else 1)
        return inputs, shape

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        # Along a lone dimension the parameter weighs rows, each by another number.
        flat = self.pos_weight is not None and inputs["pred"].dim() == 1
        return not flat and "pos_weight" not in inputs and super().aligned(inputs)

    def formula(self, pred: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        if pos_weight is None and self.pos_weight is not None:
            # One number has no dimension of its own to add to a lone one's none.
            pos_weight = pred.new_tensor(self.pos_weight if pred.dim() else self.pos_weight[0])
        return sigmoid_entropy(pred, target.to(pred.dtype), pos_weight)


@LOSSES.register_as("torch.MultiLabelSoftMarginLoss")
@dataclass(frozen=True, kw_only=True)
class MultiLabelSoftMarginLoss(Vectors):
    """Binary cross entropy of logits, the mean over classes.

    ℓ = -1/C Σ_c w_c (t_c log σ(pred_c) + (1 - t_c) log(1 - σ(pred_c)))

    Parameters:
        weight: a factor w a class; None is 1.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: logits, float [..., C].
        target: t, numbers shaped like pred, usually 0 or 1.
        weight: factor of ℓ that broadcasts with it, not of a class; torch has none.

    Returns:
        Unreduced float [...], in nats.

    Raises:
        ValueError: target not shaped like pred, or a weight of another length than C.

    Source:
        PyTorch, `torch.nn.MultiLabelSoftMarginLoss`.
    """

    weight: tuple[float, ...] | None = None

    def fit(self, *args: Any, **inputs: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        fitted, shape = super().fit(**inputs)
        one_a_class("weight", self.weight, inputs["pred"].shape[-1])
        return fitted, shape

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        entropy = sigmoid_entropy(pred, target.to(pred.dtype))
        if self.weight is not None:
            entropy = entropy * pred.new_tensor(self.weight)
        return entropy.mean(-1)


@LOSSES.register_as("torch.SoftMarginLoss")
@dataclass(frozen=True, kw_only=True)
class SoftMarginLoss(Alike):
    """Logistic loss of labels 1 and -1.

    ℓ = log(1 + exp(-y pred)), y = target

    Parameters:
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result; torch has none.

    Inputs:
        pred: scores, float, of any shape.
        target: 1 or -1 (which is not checked), numbers shaped like pred.
        weight: factor of ℓ that broadcasts with it; torch has none.

    Returns:
        Unreduced float shaped like pred, in nats. Finite and with its true
        slope also where exp overflows, where torch gives infinity and NaN.

    Raises:
        ValueError: target not shaped like pred.

    Source:
        PyTorch, `torch.nn.SoftMarginLoss`.
    """

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.softplus(-target.to(pred.dtype) * pred, threshold=40)
