"""Cross entropies over classes: softmax, one sigmoid a class, and masks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.classes import labels_of, one_hot, refuse_outside, sigmoid_entropy
from lossserver.losses.loss import Call, floating, require
from lossserver.losses.mask_cross_entropy import MaskCrossEntropy
from lossserver.losses.rows import Rows, RowwiseLoss
from lossserver.registry import LOSSES, RefusedError

#: torch's default; upstream's None means it.
NOTHING_IGNORED = -100


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CrossEntropyLoss(RowwiseLoss):
    """Cross entropy of class scores, by softmax or by one sigmoid a class, or of masks.

    softmax:  ℓ = -w_y log softmax(pred)_y
    sigmoid:  ℓ_c = -w_c t_c log σ(pred_c) - (1 - t_c) log(1 - σ(pred_c))
    mask:     L = mean over n, h, w of the sigmoid's ℓ of pred[n, y_n, h, w]  (Mask R-CNN)

    Parameters:
        use_sigmoid: one binary cross entropy a class instead of a softmax.
        use_mask: the mask form; not with use_sigmoid.
        class_weight: a factor w a class: of ℓ for softmax, of the positive term
            alone for sigmoid. One number may stand for all classes there. For
            masks a factor of ℓ a column, [W], or one for all, as upstream.
        ignore_index: label whose rows count nothing; None is -100. Not for masks.
        avg_non_ignore: a mean divides by the number of elements not ignored.
            Otherwise it divides by all, ignored or not, whatever class_weight.
        reduction: "mean", "sum" or "none"; "mean" for masks, without avg_factor.
        loss_weight: factor of the result.

    Inputs:
        pred: logits, float [N, C]; softmax [N, C, ...]; masks [N, C, H, W].
        target: class index, integer [N, ...]: in 0..C-1 or ignore_index for
            softmax; for sigmoid C and above are background, and below 0 is
            ignored. Or shaped like pred: class probabilities (softmax, float),
            one target a class (sigmoid). For masks t, [N, H, W].
        weight: softmax: broadcasts with the loss, [N, ...]. Sigmoid: [N], or
            what broadcasts with pred if target is shaped like pred. Masks need
            it: the class y, integer [N], where -1 is the last, as upstream.
        ignore_index: a whole number, in place of the parameter. Not for masks.

    Returns:
        Unreduced, in nats: softmax float [N, ...], sigmoid [N, C]; masks [1].

    Raises:
        ValueError: a label out of range, a class_weight of another length than
            C, shapes that do not fit, or an option that masks do not have.

    Source:
        MMDetection 3.3.0, `CrossEntropyLoss`. Upstream rounds the sigmoid form
        of float64 scores to float32; here it stays float64.
    """

    TAKES: ClassVar[frozenset[str]] = frozenset({"weight", "ignore_index"})
    OUTSIDE: ClassVar[frozenset[str]] = frozenset({"reduction", "loss_weight", "avg_non_ignore"})

    use_sigmoid: bool = False
    use_mask: bool = False
    class_weight: tuple[float, ...] | None = None
    ignore_index: int | None = None
    avg_non_ignore: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_mask:
            require(not self.use_sigmoid, "use_mask", "does not go with use_sigmoid", True)
            ignored = self.ignore_index
            require(ignored is None, "ignore_index", "does not go with use_mask", ignored)

    @cached_property
    def _masks(self) -> MaskCrossEntropy:
        return MaskCrossEntropy(
            class_weight=self.class_weight,
            reduction=self.reduction,
            loss_weight=self.loss_weight,
        )

    def rows(self, call: Call) -> Rows | None:
        if not self.use_mask:
            return super().rows(call)
        self._masks.check(call)
        return None

    def check(self, call: Call) -> None:
        self.rows(call)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        return self._masks.outputs(call) if self.use_mask else super().outputs(call)

    @property
    def ignored(self) -> int:
        """The label that counts nothing."""
        return NOTHING_IGNORED if self.ignore_index is None else self.ignore_index

    def for_call(self, call: Call) -> Self:
        given = call.inputs.get("ignore_index")
        if given is None:
            return self
        if type(given) is not int:
            raise RefusedError("ignore_index", "must be a whole number", type(given).__name__)
        return replace(self, ignore_index=given)

    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        return (self._fit_sigmoid if self.use_sigmoid else self._fit_softmax)(pred, target)

    def _fit_softmax(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(pred.dim() > 0, "pred", "must have a dimension of classes", list(pred.shape))
        axis = 1 if pred.dim() > 1 else 0
        classes, shape = pred.shape[axis], (*pred.shape[:axis], *pred.shape[axis + 1 :])
        self._check_class_weight({classes}, classes)
        if target.shape == pred.shape:
            floating(target, "target")
            require(
                self.ignored < 0,
                "ignore_index",
                "goes with class indices, not with probabilities",
                self.ignored,
            )
            return {"pred": pred, "target": target}, shape
        if target.shape != shape:
            raise RefusedError(
                "target",
                f"must be class indices {list(shape)} or probabilities {list(pred.shape)} "
                f"for pred {list(pred.shape)}",
                list(target.shape),
            )
        labels = labels_of(target)
        refuse_outside(
            labels[labels != self.ignored],
            0,
            classes - 1,
            f"in 0..{classes - 1}, or {self.ignored} to be ignored",
        )
        return {"pred": pred, "target": labels}, shape

    def _fit_sigmoid(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        if pred.shape == target.shape:
            self._check_class_weight({1, *pred.shape[-1:]}, pred.shape[-1] if pred.dim() else 1)
            return {"pred": pred, "target": target}, tuple(pred.shape)
        if pred.dim() != 2 or target.shape != pred.shape[:1]:
            raise RefusedError(
                "target",
                f"must be [N] class indices of pred [N, C], or shaped like pred, {list(pred.shape)}",
                list(target.shape),
            )
        self._check_class_weight({1, pred.shape[1]}, pred.shape[1])
        return {"pred": pred, "target": labels_of(target)}, tuple(pred.shape)

    def _check_class_weight(self, allowed: set[int], classes: object) -> None:
        if self.class_weight is not None and len(self.class_weight) not in allowed:
            raise RefusedError(
                "config.class_weight",
                f"must have one number a class, of which pred has {classes}",
                len(self.class_weight),
            )

    def fit_weight(
        self, weight: Tensor, inputs: Mapping[str, Any], shape: tuple[int, ...]
    ) -> Tensor:
        if not self.use_sigmoid or tuple(inputs["target"].shape) == shape:
            return weight
        require(
            weight.numel() == shape[0],
            "weight",
            f"must be [N] for class indices, here {[shape[0]]}",
            list(weight.shape),
        )
        return weight.reshape(-1, 1)

    def aligned(self, inputs: Mapping[str, Any]) -> bool:
        # Softmax of [C] scores is one row without a dimension for it.
        return (self.use_sigmoid or inputs["pred"].dim() > 1) and super().aligned(inputs)

    def own_avg_factor(self, inputs: Mapping[str, Any], shape: tuple[int, ...]) -> float | None:
        if not self.avg_non_ignore:
            return None
        target = inputs["target"]
        counted = target != self.ignored
        if self.use_sigmoid:
            counted &= target >= 0
        # One-hot labels count once a class.
        return float(counted.sum()) * (math.prod(shape[1:]) if target.dim() < len(shape) else 1)

    def reach(self, zero: Tensor, leaf: Tensor) -> Tensor:
        return zero if self.use_sigmoid else zero.unsqueeze(1)

    def formula(self, pred: Tensor, target: Tensor) -> Tensor:
        weight = None if self.class_weight is None else pred.new_tensor(self.class_weight)
        if not self.use_sigmoid:
            return F.cross_entropy(
                pred, target, weight=weight, ignore_index=self.ignored, reduction="none"
            )
        counted = (target >= 0) & (target != self.ignored)
        if target.dim() != pred.dim():
            counted = counted.unsqueeze(1)
            target = one_hot(target, pred)
        return sigmoid_entropy(pred, target.to(pred.dtype), weight).masked_fill(~counted, 0)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CrossEntropyCustomLoss(CrossEntropyLoss):
    """Cross entropy as of CrossEntropyLoss, as V3Det's detectors are trained.

    Parameters:
        num_classes: must be given, and is not read: C is that of pred.
        use_sigmoid: as of CrossEntropyLoss.
        use_mask: as of CrossEntropyLoss.
        class_weight: as of CrossEntropyLoss.
        ignore_index: as of CrossEntropyLoss.
        avg_non_ignore: as of CrossEntropyLoss.
        reduction: "mean", "sum" or "none".
        loss_weight: factor of the result.

    Inputs:
        pred: as of CrossEntropyLoss.
        target: as of CrossEntropyLoss.
        weight: as of CrossEntropyLoss.
        ignore_index: a whole number, in place of the parameter.

    Returns:
        As of CrossEntropyLoss.

    Raises:
        ValueError: num_classes left out or -1, and as of CrossEntropyLoss.

    Source:
        MMDetection 3.3.0, `CrossEntropyCustomLoss`.
    """

    num_classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes != -1, "num_classes", "must be given", -1)
