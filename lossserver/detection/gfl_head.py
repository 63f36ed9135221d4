"""Generalized focal loss: one score for class and quality, and boxes as distributions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import Anchored
from lossserver.detection.anchor_targets import Level
from lossserver.detection.coders import centres
from lossserver.detection.head import Run, default
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.boxes import iou
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES, RefusedError

#: Bins of a distribution. Upstream's own configs have 17.
MAX_BINS = 1 << 12


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class GFLHead(Anchored):
    """A head over one anchor a place whose scores are qualities and whose boxes are distributions.

    loss_cls  = Σ over a level's anchors of w · ℓ_cls(scores, (label, IoU)) / n
    loss_bbox = Σ over its positives of q · ℓ_bbox / max(1, Σ q of all levels)
    loss_dfl  = Σ over its positives' sides of q · ℓ_dfl / 4 / max(1, Σ q of all levels)

    A side's way from the anchor's centre, in strides, is the mean of a softmax over
    0..reg_max. IoU is that of the predicted box, q the largest class probability; neither
    has a gradient. n is the positives of all images, at least 1 an image.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator with one square stride a level
            and one anchor a place.
        bbox_coder: must be a DistancePointBBoxCoder.
        reg_decoded_bbox: not read; boxes are always compared in strides.
        reg_max: the last bin of a distribution.
        loss_cls: config of QualityFocalLoss.
        loss_bbox: config of a loss of boxes with one number a box.
        loss_dfl: config of DistributionFocalLoss.
        train_cfg: assigner (ATSSAssigner), allowed_border (pixels, below 0 is any)
            and pos_weight (not above 0 is 1).

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...]}, a map a level, float [B, C, H, W]
            and [B, 4 · (reg_max + 1), H, W].
        target: as of AnchorHead.
        seed: as of AnchorHead.

    Returns:
        Lists of scalars, one a level: `loss_cls`, `loss_bbox`, `loss_dfl`. A level
        without positives has a loss_bbox and loss_dfl of 0.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; a
            stride that is not square; an image without a valid anchor.

    Source:
        Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388. Same values as
        MMDetection 3.3.0 `GFLHead`, which fails on float64 predictions; here they
        are computed.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_dfl")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    bbox_coder: dict[str, Any] = default(type="DistancePointBBoxCoder")
    reg_max: int = 16
    loss_dfl: dict[str, Any] = default(type="DistributionFocalLoss", loss_weight=0.25)

    def build(self) -> None:
        require(
            1 <= self.reg_max < MAX_BINS, "reg_max", f"must be in 1..{MAX_BINS - 1}", self.reg_max
        )
        super().build()
        _ = self.strides
        if not isinstance(self.coder, DistancePointBBoxCoder):
            raise RefusedError("bbox_coder.type", "must be DistancePointBBoxCoder", self.bbox_coder)

    @cached_property
    def strides(self) -> list[float]:
        """Pixels of a place, one a level."""
        for level, (wide, high) in enumerate(self.priors.pairs):
            field = f"anchor_generator.strides[{level}]"
            require(wide == high, field, "must be square", [wide, high])
        return [wide for wide, _ in self.priors.pairs]

    @property
    def channels(self) -> dict[str, int]:
        return {"cls_scores": self.cls_channels, "bbox_preds": 4 * (self.reg_max + 1)}

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        return boxes

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        levels, avg_factor = self.levels(call)
        scores = self.rows_of(call, "cls_scores", self.cls_channels)
        ways = self.rows_of(call, "bbox_preds", 4 * (self.reg_max + 1))
        columns = zip(levels, self.strides, scores, ways, strict=True)
        rows = [self._of_level(run, avg_factor, *column) for column in columns]
        cls, bbox, dfl, quality = zip(*rows, strict=True)
        divisor = torch.stack(quality).sum().clamp(min=1)
        return {
            "loss_cls": list(cls),
            "loss_bbox": [one / divisor for one in bbox],
            "loss_dfl": [one / divisor for one in dfl],
        }

    def _of_level(
        self, run: Run, avg_factor: int, level: Level, stride: float, scores: Tensor, ways: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of one level the three losses, two of them not yet divided, and Σ q."""
        score = scores.new_zeros(len(scores))
        positive = (level.labels < self.num_classes).nonzero().squeeze(1)
        bbox = dfl = ways.sum() * 0
        quality = scores.new_zeros(0)
        if len(positive):
            points = centres(level.anchors[positive]) / stride
            objects = level.bbox_targets[positive] / stride
            own = ways[positive].reshape(-1, self.reg_max + 1)
            boxes = self.coder.decode(points, self._mean(own).view(-1, 4))
            quality = scores.detach()[positive].sigmoid().amax(1)
            score[positive] = iou(boxes.detach(), objects).to(score.dtype)
            bbox = run("loss_bbox", boxes, objects, quality, 1.0)
            wanted = self.coder.encode(points, objects, self.reg_max).flatten()
            dfl = run("loss_dfl", own, wanted, quality.repeat_interleave(4), 4.0)
        cls = run("loss_cls", scores, [level.labels, score], level.label_weights, avg_factor)
        return cls, bbox, dfl, quality.sum()

    def _mean(self, logits: Tensor) -> Tensor:
        """The mean bin of distributions [P, reg_max + 1]."""
        bins = torch.arange(self.reg_max + 1, dtype=logits.dtype, device=logits.device)
        return logits.softmax(1) @ bins
