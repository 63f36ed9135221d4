"""The auxiliary loss of DDQ-DETR."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.losses.boxes import BoxLoss
from lossserver.losses.dense_queries import Image, images_of, matched, qualities
from lossserver.losses.loss import Call, Loss, ReducedLoss, require
from lossserver.losses.scene import refuse_size
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DDQAuxLoss(Loss):
    """Auxiliary loss of DDQ-DETR's dense queries: each object has several queries, by quality.

    π = argmin Σ_q 2 F(σ(s_qy)) + 5 |b_q - b_y|₁ - 2 GIoU(b_q, b_y)
    t_q = s_qy IoU⁶ · max IoU / max(s_qy IoU⁶), both maxima over the queries of object y

    aux_loss_cls  = QualityFocalLoss(s, (y, t)) / max(1, Σ t)
    aux_loss_bbox = Σ_q t_q GIoULoss(b_q, b_y) / max(1, Σ t)

    where π matches each object y with k = min(topk, Q // G) queries q of its
    image, F is the focal cost (α = 0.25, γ = 2) of a probability that is taken
    for a logit, as upstream, and |·|₁ is in widths and heights of the image.

    Parameters:
        loss_cls: config of the loss of scores, a QualityFocalLoss with
            activated=True; None is that with its defaults.
        loss_bbox: config of the loss of boxes, such as GIoULoss; None is that
            with loss_weight=2.
        train_cfg: None, or dict(assigner=dict(type="TopkHungarianAssigner",
            topk=8)); alpha and beta in it have no effect, as upstream.

    Inputs:
        pred: {"cls_scores": probabilities, float [B, Q, C], "bbox_preds": boxes,
            float [B, Q, 4], as x1, y1, x2, y2 in pixels}.
        target: {"gt_bboxes": list of B float [G, 4], as pred's, "gt_labels":
            list of B class indices [G], integer in 0..C-1, "img_metas": list
            of B maps, of which "img_shape", height and width, is read}.

    Returns:
        aux_loss_cls and aux_loss_bbox, float [B], one number an image, where
        upstream has a list. The sums Σ t are over all images of the call. An
        image without objects gives 0, also for its scores. π and t have no
        gradient. Where Q < G, k is 1 and the objects that cost most are left
        out; a cost that is not finite is larger than all others together.

    Raises:
        ValueError: a config of another form, a probability or class index out
            of range, more than 2²⁴ pairs or 2³³ steps to match them, or inputs
            that do not fit.

    Source:
        Zhang et al., Dense Distinct Query for End-to-End Object Detection, 2023,
        arXiv:2303.12776. Same values as MMDetection 3.3.0 `DDQAuxLoss`, which
        has no name in its registry.
    """

    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"aux_loss_cls", "aux_loss_bbox"})

    loss_cls: dict[str, Any] | None = None
    loss_bbox: dict[str, Any] | None = None
    train_cfg: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _ = self.of_scores, self.of_boxes, self.topk  # what cannot be built is refused now

    @cached_property
    def of_scores(self) -> Loss:
        """The loss of scores, which are probabilities."""
        config = self.loss_cls or {"type": "QualityFocalLoss", "activated": True}
        loss = _built("loss_cls", config)
        rule = 'must be a QualityFocalLoss with activated=True and reduction="mean"'
        fits = LOSSES[config["type"]] is LOSSES["QualityFocalLoss"] and _is_mean(loss)
        require(fits and getattr(loss, "activated", False), "loss_cls", rule, config)
        return loss

    @cached_property
    def of_boxes(self) -> Loss:
        """The loss of boxes."""
        config = self.loss_bbox or {"type": "GIoULoss", "loss_weight": 2.0}
        loss = _built("loss_bbox", config)
        rule = 'must be a loss of boxes, one number a box, with reduction="mean"'
        fits = isinstance(loss, BoxLoss) and loss.fit(*torch.zeros(2, 5, 4))[1] == (5,)
        require(fits and _is_mean(loss), "loss_bbox", rule, config)
        return loss

    @cached_property
    def topk(self) -> int:
        """Queries that an object is to have."""
        given = {"assigner": {}} | (self.train_cfg or {})
        rule = "must be dict(assigner=dict(type='TopkHungarianAssigner', topk=...), alpha, beta)"
        assigner = given["assigner"]
        require(given.keys() <= {"assigner", "alpha", "beta"}, "train_cfg", rule, sorted(given))
        require(isinstance(assigner, dict), "train_cfg", rule, type(assigner).__name__)
        assigner = {"type": "TopkHungarianAssigner", "topk": 8} | assigner
        require(assigner.keys() == {"type", "topk"}, "train_cfg", rule, sorted(assigner))
        require(assigner["type"] == "TopkHungarianAssigner", "train_cfg", rule, assigner["type"])
        topk = assigner["topk"]
        holds = type(topk) is int and topk >= 1
        require(holds, "train_cfg.assigner.topk", "must be a whole number above 0", topk)
        return int(topk)

    def check(self, call: Call) -> None:
        images = images_of(call)
        copies = [len(image.labels) * image.copies(self.topk) for image in images]
        refuse_size(copies, max((len(image.scores) for image in images), default=0))

    def outputs(self, call: Call) -> dict[str, Tensor]:
        images = images_of(call)
        if not images:
            return dict.fromkeys(self.OUTPUTS, call.inputs["pred"]["cls_scores"].sum((1, 2)))
        columns = zip(*map(self._of_image, images), strict=True)
        scores, boxes, quality = (torch.stack(column) for column in columns)
        divisor = quality.sum().clamp(min=1)
        return {"aux_loss_cls": scores / divisor, "aux_loss_bbox": boxes / divisor}

    def _of_image(self, image: Image) -> tuple[Tensor, Tensor, Tensor]:
        """Both losses of one image, and the sum of its qualities."""
        background = image.scores.shape[1]
        labels = torch.full_like(image.boxes[:, 0], background, dtype=torch.int64)
        quality = torch.zeros_like(image.boxes[:, 0])
        if not len(image.labels):
            return image.scores.sum() * 0, image.boxes.sum() * 0, quality.sum()
        queries, objects = matched(image, self.topk)
        own = qualities(image, queries, objects)
        labels[queries] = image.labels[objects]
        quality[queries] = own
        of_scores = _value(
            self.of_scores, image.scores, [labels, quality], torch.ones_like(quality)
        )
        of_boxes = _value(self.of_boxes, image.boxes[queries], image.objects[objects], own)
        return of_scores, of_boxes, own.sum()


def _built(field: str, config: dict[str, Any]) -> Loss:
    try:
        loss: Loss = LOSSES.build(config)
    except RefusedError as refusal:
        raise RefusedError(f"{field}.{refusal.field}", refusal.rule, refusal.given) from None
    return loss


def _is_mean(loss: Loss) -> bool:
    return isinstance(loss, ReducedLoss) and loss.reduction == "mean"


def _value(loss: Loss, pred: Tensor, target: Any, weight: Tensor) -> Tensor:
    """The loss of one image; upstream's divisor of 1 adds its epsilon, too."""
    inputs = {"pred": pred, "target": target, "weight": weight}
    value: Tensor = loss.outputs(Call(inputs=inputs, avg_factor=1.0))["loss"]
    return value
