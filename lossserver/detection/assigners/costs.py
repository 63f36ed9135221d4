"""What it costs to match a prediction with an object, in one respect: [Q, N] of Q and N."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lossserver.detection.assigned import Predicted
from lossserver.detection.assigners.common import boxes_of, scores_of, with_sides
from lossserver.detection.images import Image, check_meta
from lossserver.detection.overlaps import Mode, bbox_overlaps
from lossserver.detection.parts import COSTS
from lossserver.losses.loss import require


@dataclass(frozen=True, kw_only=True)
class Cost(ABC):
    """One part of a match's cost.

    Parameters:
        weight: its factor in the sum.
    """

    #: What it must be told of predictions, a field of `Predicted`.
    NEEDS = ""

    weight: float = 1.0

    @abstractmethod
    def formula(self, predicted: Predicted | None, count: int, image: Image) -> Tensor:
        """The cost, float32 [Q, N], of Q = count predictions.

        Raises:
            RefusedError: what it looks at was not given, or is not as much.
        """


@COSTS.register
@dataclass(frozen=True, kw_only=True)
class ClassificationCost(Cost):
    """-p, with p the softmax of a prediction's logits at the object's class.

    Parameters:
        weight: its factor in the sum.

    Source:
        Carion et al., DETR, 2020, arXiv:2005.12872, section 3.1.
        MMDetection 3.3.0, `ClassificationCost`.
    """

    NEEDS = "scores"

    def formula(self, predicted: Predicted | None, count: int, image: Image) -> Tensor:
        p = scores_of(predicted, count, image).softmax(-1)
        return -p[:, image.labels] * self.weight


@COSTS.register
@dataclass(frozen=True, kw_only=True)
class FocalLossCost(Cost):
    """What the focal loss gains, with p the sigmoid of the logit at the object's class.

    -α (1 - p)^γ log(p + ε) + (1 - α) p^γ log(1 - p + ε)

    Parameters:
        alpha: α.
        gamma: γ.
        eps: ε.
        binary_input: must be false: costs of masks are not offered.
        weight: its factor in the sum.

    Source:
        Zhu et al., Deformable DETR, 2020, arXiv:2010.04159, appendix A.4.
        MMDetection 3.3.0, `FocalLossCost`.
    """

    NEEDS = "scores"

    alpha: float = 0.25
    gamma: float = 2.0
    eps: float = 1e-12
    binary_input: bool = False

    def __post_init__(self) -> None:
        rule = "must be false: costs of masks are not offered"
        require(not self.binary_input, "binary_input", rule, self.binary_input)

    def formula(self, predicted: Predicted | None, count: int, image: Image) -> Tensor:
        p = scores_of(predicted, count, image)[:, image.labels].sigmoid()
        found = -(p + self.eps).log() * self.alpha * (1 - p).pow(self.gamma)
        missed = -(1 - p + self.eps).log() * (1 - self.alpha) * p.pow(self.gamma)
        return (found - missed) * self.weight


@COSTS.register
@dataclass(frozen=True, kw_only=True)
class BBoxL1Cost(Cost):
    """Σ |b - b̂| over the four numbers of boxes, in units of the image's sides.

    Parameters:
        box_format: "xyxy", corners, or "xywh", centre and sides.
        weight: its factor in the sum.

    Source:
        Carion et al., DETR, 2020, arXiv:2005.12872, section 3.1.
        MMDetection 3.3.0, `BBoxL1Cost`.
    """

    NEEDS = "boxes"

    box_format: Literal["xyxy", "xywh"] = "xyxy"

    def formula(self, predicted: Predicted | None, count: int, image: Image) -> Tensor:
        check_meta(image.meta, ("img_shape",), "target.img_metas")
        height, width = image.size("img_shape")
        unit = image.boxes.new_tensor([width, height, width, height])
        boxes, own = boxes_of(predicted, count), image.boxes
        if self.box_format == "xywh":
            boxes, own = with_sides(boxes), with_sides(own)
        return torch.cdist(boxes / unit, own / unit, p=1) * self.weight


@COSTS.register
@dataclass(frozen=True, kw_only=True)
class IoUCost(Cost):
    """-o, with o the overlap of predicted and object's box.

    Parameters:
        iou_mode: "giou", generalized IoU; "iou"; or "iof", the share of the prediction.
        weight: its factor in the sum.

    Source:
        Carion et al., DETR, 2020, arXiv:2005.12872, section 3.1.
        MMDetection 3.3.0, `IoUCost`.
    """

    NEEDS = "boxes"

    iou_mode: Mode = "giou"

    def formula(self, predicted: Predicted | None, count: int, image: Image) -> Tensor:
        boxes = boxes_of(predicted, count)
        return -bbox_overlaps(boxes, image.boxes, self.iou_mode) * self.weight
