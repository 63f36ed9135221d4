"""Adaptive training sample selection: positives by the statistics of their overlaps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import Anchored
from lossserver.detection.anchor_targets import Level
from lossserver.detection.coders import centres
from lossserver.detection.head import Run, default
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class ATSSHead(Anchored):
    """A head over anchors with ATSS: each is classified, moved, and judged by how central it is.

    loss_cls        = Σ over a level's anchors of w · ℓ_cls / n
    loss_bbox       = Σ over its positives of c · ℓ_bbox / max(1, Σ c of all levels)
    loss_centerness = Σ over its positives of ℓ_centerness(prediction, c) / n
    c = √(min(l, r) / max(l, r) · min(t, b) / max(t, b))

    with l, t, r, b the ways from the anchor's centre to the sides of its object,
    and n the positives of all images, at least 1 an image.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator.
        bbox_coder: config of a box coder.
        reg_decoded_bbox: must be true in earnest; if false, encoded boxes are taken for
            boxes, as upstream.
        loss_cls: config of a loss of scores.
        loss_bbox: config of a loss of boxes, such as GIoULoss.
        loss_centerness: config of a loss of one logit.
        train_cfg: assigner (ATSSAssigner), allowed_border (pixels, below 0 is any)
            and pos_weight (not above 0 is 1).

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...], "centernesses": [...]}, a map a
            level, float [B, A · C, H, W], [B, A · 4, H, W] and [B, A, H, W].
        target: as of AnchorHead.
        seed: as of AnchorHead.

    Returns:
        Lists of scalars, one a level: `loss_cls`, `loss_bbox`, `loss_centerness`. A
        level without positives has a loss_bbox and loss_centerness of 0.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor.

    Source:
        Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free
        Detection, 2019, arXiv:1912.02424. Same values as MMDetection 3.3.0
        `ATSSHead`.
    """

    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds", "centernesses")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_centerness")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)
    UNREAD: ClassVar[frozenset[str]] = Anchored.UNREAD | {"pred_kernel_size"}

    reg_decoded_bbox: bool = True
    loss_centerness: dict[str, Any] = default(
        type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0
    )

    @property
    def channels(self) -> dict[str, int]:
        return super().channels | {"centernesses": 1}

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        levels, avg_factor = self.levels(call)
        scores = self.rows_of(call, "cls_scores", self.cls_channels)
        boxes = self.rows_of(call, "bbox_preds", 4)
        central = self.rows_of(call, "centernesses", 1)
        rows = [
            self._of_positives(run, level, avg_factor, *own)
            for level, *own in zip(levels, boxes, central, strict=True)
        ]
        bbox, centerness, quality = zip(*rows, strict=True)
        divisor = torch.stack(quality).sum().clamp(min=1)
        return {
            "loss_cls": [
                run("loss_cls", own, level.labels, level.label_weights, avg_factor)
                for own, level in zip(scores, levels, strict=True)
            ],
            "loss_bbox": [one / divisor for one in bbox],
            "loss_centerness": list(centerness),
        }

    def _of_positives(
        self, run: Run, level: Level, avg_factor: int, boxes: Tensor, central: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one level the loss of boxes, not yet divided, that of centerness, and Σ c."""
        positive = (level.labels < self.num_classes).nonzero().squeeze(1)
        if not len(positive):
            return boxes.sum() * 0, central.sum() * 0, boxes.new_zeros(())
        anchors, objects = level.anchors[positive], level.bbox_targets[positive]
        quality = centerness(anchors, objects)
        decoded = self.coder.decode(anchors, boxes[positive])
        return (
            run("loss_bbox", decoded, objects, quality, 1.0),
            run("loss_centerness", central[positive].squeeze(1), quality, None, avg_factor),
            quality.sum().to(boxes.dtype),
        )


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """c of anchors and their objects' boxes, [P, 4] each."""
    middle = centres(anchors)
    before, behind = middle - boxes[:, :2], boxes[:, 2:] - middle
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(1).sqrt()
