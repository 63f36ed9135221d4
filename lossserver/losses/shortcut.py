"""MMDetection 3's short cut: where nothing weighs anything, nothing is computed."""

from typing import ClassVar

import torch
from torch import Tensor

from lossserver.losses.cotangent import broadcast, weighted
from lossserver.losses.loss import Call, floating, tensor_of
from lossserver.losses.rows import Rows, RowwiseLoss


class ShortCut(RowwiseLoss):
    """A loss that is Σ pred · weight where a weight is given and none of it is above 0.

    Nothing else is looked at then: not loss_weight, not avg_factor, not the
    reduction. Weights of 0 make that 0; negative ones do not.

    Class attributes:
        SHORT_UNREDUCED: it is taken for an unreduced loss too, which it makes a scalar.
    """

    SHORT_UNREDUCED: ClassVar[bool] = True

    def rows(self, call: Call) -> Rows | None:
        if not self.weighs_nothing(call):
            return super().rows(call)
        self._fit_short(call)
        return None

    def check(self, call: Call) -> None:
        if self.weighs_nothing(call):
            self._fit_short(call)
        else:
            super().check(call)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        if not self.weighs_nothing(call):
            return super().outputs(call)
        return {"loss": weighted(*self._fit_short(call)).sum()}

    def weighs_nothing(self, call: Call) -> bool:
        """Whether the short cut is to be taken."""
        if call.inputs.get("weight") is None:
            return False
        if not self.SHORT_UNREDUCED and self.reduction_of(call) == "none":
            return False
        return not torch.any(tensor_of(call, "weight") > 0)

    def _fit_short(self, call: Call) -> tuple[Tensor, Tensor]:
        pred, weight = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "weight")
        if pred.dim() == weight.dim() + 1:
            weight = weight.unsqueeze(1)
        broadcast("weight", weight, tuple(pred.shape), "pred")
        return pred, weight
