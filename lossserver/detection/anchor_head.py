"""Heads that classify anchors and move them: AnchorHead, RetinaHead, RPNHead."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lossserver.detection.anchor_parts import Anchored
from lossserver.detection.head import Run, default
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES


@dataclass(frozen=True, kw_only=True)
class AnchorLosses(Anchored):
    """The two losses of each level, over the targets' sum of avg_factor."""

    #: Of the output of scores, and that of boxes.
    NAMES: ClassVar[tuple[str, str]] = ("loss_cls", "loss_bbox")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(NAMES)

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        levels, avg_factor = self.levels(call)
        scores = self.rows_of(call, "cls_scores", self.cls_channels)
        boxes = self.rows_of(call, "bbox_preds", 4)
        return {
            self.NAMES[0]: [
                run("loss_cls", own, level.labels, level.label_weights, avg_factor)
                for own, level in zip(scores, levels, strict=True)
            ],
            self.NAMES[1]: [
                run(
                    "loss_bbox",
                    self.coder.decode(level.anchors, own) if self.reg_decoded_bbox else own,
                    level.bbox_targets,
                    level.bbox_weights,
                    avg_factor,
                )
                for own, level in zip(boxes, levels, strict=True)
            ],
        }


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class AnchorHead(AnchorLosses):
    """A head over anchors: each is classified, and moved onto its object.

    loss_cls  = Σ over a level's anchors of w · ℓ_cls(score, label) / n
    loss_bbox = Σ over a level's positives of ℓ_bbox(prediction, target) / n

    with n the positives of all images (at least 1 an image); with a sampler
    other than PseudoSampler the positives and negatives it chose.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator.
        bbox_coder: config of a box coder.
        reg_decoded_bbox: loss_bbox compares boxes in pixels, not encoded ones.
        loss_cls: config of a loss of scores. With use_sigmoid an anchor has C
            scores, else C + 1.
        loss_bbox: config of a loss of boxes.
        train_cfg: assigner, sampler (PseudoSampler if left out), allowed_border
            (pixels, below 0 is any) and pos_weight (not above 0 is 1).

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...]}, a map a level, float
            [B, A · C, H, W] and [B, A · 4, H, W].
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"img_shape": [h, w], "pad_shape": [h, w]}, ...]} an entry an image,
            and "gt_bboxes_ignore" likewise, if there are such regions. Boxes
            are x1, y1, x2, y2 in pixels.
        seed: a whole number for a sampler that chooses at random; 0 if left out.

    Returns:
        Lists of scalars, one a level: `loss_cls` and `loss_bbox`.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor.

    Source:
        MMDetection 3.3.0, `AnchorHead`. The parameters of its network and of
        testing (in_channels, test_cfg ...) are taken and not read.
    """


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class RetinaHead(AnchorLosses):
    """RetinaNet's head: AnchorHead with RetinaNet's anchors.

    loss_cls  = Σ over a level's anchors of w · ℓ_cls(score, label) / n
    loss_bbox = Σ over a level's positives of ℓ_bbox(prediction, target) / n

    with n the positives of all images, at least 1 an image.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: as of AnchorHead; three octaves and ratios a place, strides
            8 to 128, if left out.
        bbox_coder: as of AnchorHead.
        reg_decoded_bbox: as of AnchorHead.
        loss_cls: as of AnchorHead; RetinaNet's configs have FocalLoss.
        loss_bbox: as of AnchorHead; RetinaNet's configs have L1Loss.
        train_cfg: as of AnchorHead.

    Inputs:
        pred: as of AnchorHead.
        target: as of AnchorHead.
        seed: as of AnchorHead.

    Returns:
        Lists of scalars, one a level: `loss_cls` and `loss_bbox`.

    Raises:
        ValueError: as AnchorHead.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, 2017,
        arXiv:1708.02002. Same values as MMDetection 3.3.0 `RetinaHead`.
    """

    anchor_generator: dict[str, Any] = default(
        type="AnchorGenerator",
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
    )


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class RPNHead(AnchorLosses):
    """The region proposal network's head: AnchorHead of one class, object or not.

    loss_rpn_cls  = Σ over a level's anchors of w · ℓ_cls(score, label) / n
    loss_rpn_bbox = Σ over a level's positives of ℓ_bbox(prediction, target) / n

    with n the positives and negatives that the sampler chose, each at least 1 an
    image.

    Parameters:
        num_classes: 1.
        anchor_generator: as of AnchorHead.
        bbox_coder: as of AnchorHead.
        reg_decoded_bbox: as of AnchorHead.
        loss_cls: as of AnchorHead.
        loss_bbox: as of AnchorHead.
        train_cfg: as of AnchorHead; its sampler is usually RandomSampler.

    Inputs:
        pred: as of AnchorHead, with C = 1.
        target: as of AnchorHead; labels are not looked at and may be left out.
        seed: as of AnchorHead.

    Returns:
        Lists of scalars, one a level: `loss_rpn_cls` and `loss_rpn_bbox`.

    Raises:
        ValueError: as AnchorHead.

    Source:
        Ren et al., Faster R-CNN, 2015, arXiv:1506.01497. Same values as
        MMDetection 3.3.0 `RPNHead`.
    """

    NAMES: ClassVar[tuple[str, str]] = ("loss_rpn_cls", "loss_rpn_bbox")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(NAMES)

    num_classes: int = 1

    @property
    def labelled(self) -> None:
        return None
