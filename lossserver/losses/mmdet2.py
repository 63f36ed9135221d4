"""MMDetection 2.24.1's losses, under the scope `mmdet2.`, where they differ from 3.3.0's.

All that has not changed is another name of the same class. A loss that came
with MMDetection 3 has no such name.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lossserver.losses import focal, gfocal, heatmap, regression
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES, RefusedError

#: Losses whose values, gradients and refusals are the same in both.
UNCHANGED = (
    "AssociativeEmbeddingLoss",
    "BalancedL1Loss",
    "BoundedIoULoss",
    "CIoULoss",
    "CrossEntropyLoss",
    "DIoULoss",
    "DiceLoss",
    "DistributionFocalLoss",
    "GHMC",
    "GHMR",
    "GIoULoss",
    "IoULoss",
    "KnowledgeDistillationKLDivLoss",
    "MSELoss",
    "SeesawLoss",
    "VarifocalLoss",
)


def as_of_2(difference: str, *, without: str = "nothing") -> Callable[[type], type]:
    """Register a class under the scope, its docstring that of its base and what differs.

    Parameters:
        difference: a sentence.
        without: pattern of the names of inputs that its base takes and it does not.
    """

    def register(cls: type[Any]) -> type[Any]:
        summary, rest = str(inspect.getdoc(cls.__base__)).split("\n", 1)
        rest = re.sub(rf"^    (?:{without}): .*\n(?: {{8}}.*\n)*", "", rest, flags=re.MULTILINE)
        said = f"{summary.rstrip('.')}, as in MMDetection 2.24.1.\n\n{difference}\n{rest}"
        cls.__doc__ = said.replace("MMDetection 3.3.0", "MMDetection 2.24.1")
        return LOSSES.register_as(f"mmdet2.{cls.__name__}")(cls)

    return register


@as_of_2("Without the short cut for weights of which none is above 0.")
@dataclass(frozen=True, kw_only=True)
class L1Loss(regression.L1Loss):
    def weighs_nothing(self, call: Call) -> bool:
        return False


@as_of_2("Without the short cut for weights of which none is above 0.")
@dataclass(frozen=True, kw_only=True)
class SmoothL1Loss(regression.SmoothL1Loss):
    def weighs_nothing(self, call: Call) -> bool:
        return False


@as_of_2("The target must be class indices.")
@dataclass(frozen=True, kw_only=True)
class FocalLoss(focal.FocalLoss):
    def fit(self, pred: Tensor, target: Tensor) -> tuple[dict[str, Any], tuple[int, ...]]:
        require(target.dim() == 1, "target", "must be [N] class indices", list(target.shape))
        return super().fit(pred, target)


@as_of_2("The target must be a list of class index and quality.")
@dataclass(frozen=True, kw_only=True)
class QualityFocalLoss(gfocal.QualityFocalLoss):
    def fit(self, pred: Tensor, target: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
        if isinstance(target, Tensor):
            raise RefusedError("target", "must be a list of class index and quality", "one tensor")
        return super().fit(pred, target)


@as_of_2(
    "Without places of peaks; pos_weight and neg_weight must be 1.", without="pos_inds|pos_labels"
)
@dataclass(frozen=True, kw_only=True)
class GaussianFocalLoss(heatmap.GaussianFocalLoss):
    TAKES: ClassVar[frozenset[str]] = frozenset({"weight"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pos_weight", "neg_weight"):
            given = getattr(self, name)
            require(given == 1, name, "came with MMDetection 3; must be 1", given)


for _name in UNCHANGED:
    LOSSES.alias(f"mmdet2.{_name}", _name)
