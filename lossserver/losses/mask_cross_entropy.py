"""The mask form of CrossEntropyLoss, which serves it: one mask a class, of which the object's counts."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossserver.losses.classes import check_indices, sigmoid_entropy
from lossserver.losses.loss import Call, ReducedLoss, floating, require, tensor_of


@dataclass(frozen=True, kw_only=True)
class MaskCrossEntropy(ReducedLoss):
    """Mean binary cross entropy of each object's mask. Its parameters and inputs are said there."""

    class_weight: tuple[float, ...] | None = None

    def check(self, call: Call) -> None:
        self._check_options(call)
        pred = floating(tensor_of(call, "pred"), "pred")
        target, labels = tensor_of(call, "target"), tensor_of(call, "weight")
        require(pred.dim() >= 3, "pred", "must be [N, C, H, W] with use_mask", list(pred.shape))
        rows, classes, *size = pred.shape
        require(
            list(target.shape) == [rows, *size],
            "target",
            f"must be masks {[rows, *size]} for pred {list(pred.shape)}",
            list(target.shape),
        )
        require(
            labels.shape == pred.shape[:1],
            "weight",
            f"must be class indices [N], here {[rows]}, with use_mask",
            list(labels.shape),
        )
        check_indices(labels, -classes, classes - 1, "weight")
        require(
            self.class_weight is None or len(self.class_weight) in (1, size[-1]),
            "config.class_weight",
            f"must have one number, or {size[-1]}, one a column, with use_mask",
            len(self.class_weight or ()),
        )

    def _check_options(self, call: Call) -> None:
        require(
            self.reduction_of(call) == "mean",
            "config.reduction" if call.reduction_override is None else "reduction_override",
            'must be "mean" with use_mask',
            self.reduction_of(call),
        )
        require(call.avg_factor is None, "avg_factor", "does not go with use_mask", call.avg_factor)
        ignored = call.inputs.get("ignore_index")
        require(ignored is None, "ignore_index", "does not go with use_mask", ignored)
        upstream = call.grad_output.get("loss")
        require(
            upstream is None or upstream.shape == (1,),
            "grad_output",
            "must be shaped like the loss, [1]",
            None if upstream is None else list(upstream.shape),
        )

    def outputs(self, call: Call) -> dict[str, Tensor]:
        pred, labels = tensor_of(call, "pred"), tensor_of(call, "weight").long()
        own = pred[torch.arange(len(pred), device=pred.device), labels]
        rows = sigmoid_entropy(own, tensor_of(call, "target").to(pred.dtype))
        if self.class_weight is not None:
            rows = rows * rows.new_tensor(self.class_weight)
        # The upstream gradient, of [1], is autograd's.
        ends = self.ends(replace(call, grad_output={}), tuple(rows.shape))
        return {"loss": ends.value(rows).unsqueeze(0)}
