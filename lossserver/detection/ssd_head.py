"""SSD's head: a softmax over classes and background, and of the negatives the hardest."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import AnchorParts
from lossserver.detection.head import Run, default, flat
from lossserver.losses.loss import Call, Loss, require
from lossserver.registry import LOSSES, RefusedError


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class SSDHead(AnchorParts):
    """The head of SSD: of the negatives, only the hardest count, a few for each positive.

    loss_cls  = (Σ over positives of w · ℓ + Σ over hard negatives of ℓ) / n,  ℓ = -log softmax(score)_y
    loss_bbox = Σ over positives of SmoothL1(prediction, target) / n

    of one image, where n is the positives of all images, at least 1 an image.
    The hard negatives are those of the largest ℓ, neg_pos_ratio for each
    positive of their image: an image without positives has a loss of 0. Which
    they are has no gradient.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator.
        bbox_coder: config of a box coder.
        reg_decoded_bbox: loss_bbox compares boxes in pixels, not encoded ones.
        train_cfg: assigner, sampler (PseudoSampler if left out), allowed_border
            (pixels, below 0 is any), pos_weight (w; not above 0 is 1),
            neg_pos_ratio (a whole number) and smoothl1_beta (above 0).

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...]}, a map a level, float
            [B, A · (C + 1), H, W] and [B, A · 4, H, W], A the level's own.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"img_shape": [h, w], "pad_shape": [h, w]}, ...]} an entry an image,
            and "gt_bboxes_ignore" likewise, if there are such regions. Boxes
            are x1, y1, x2, y2 in pixels.
        seed: a whole number for a sampler that chooses at random; 0 if left out.

    Returns:
        Lists, one entry an image: `loss_cls` of [1], `loss_bbox` of scalars.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor; a train_cfg without its numbers.

    Source:
        Liu et al., SSD: Single Shot MultiBox Detector, 2016, arXiv:1512.02325,
        section 2.2. Same values as MMDetection 3.3.0 `SSDHead`, whose
        parameters of the network and of testing are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = AnchorParts.UNREAD | {"use_depthwise"}
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss_cls", "loss_bbox"})

    num_classes: int = 80
    anchor_generator: dict[str, Any] = default(
        type="SSDAnchorGenerator",
        scale_major=False,
        input_size=300,
        strides=[8, 16, 32, 64, 100, 300],
        ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        basesize_ratio_range=[0.1, 0.9],
    )
    bbox_coder: dict[str, Any] = default(
        type="DeltaXYWHBBoxCoder",
        clip_border=True,
        target_means=[0.0, 0.0, 0.0, 0.0],
        target_stds=[1.0, 1.0, 1.0, 1.0],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.negatives_per_positive

    @cached_property
    def negatives_per_positive(self) -> int:
        """The most hard negatives for each positive."""
        ratio = self.trained.get("neg_pos_ratio")
        if type(ratio) is not int or ratio < 0:
            rule = "must be a whole number, 0 or more"
            raise RefusedError("train_cfg.neg_pos_ratio", rule, ratio)
        return ratio

    @property
    def cls_channels(self) -> int:
        """One score a class, and one for background."""
        return self.num_classes + 1

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The losses, which are not the config's to choose."""
        beta = self.trained.get("smoothl1_beta")
        fits = isinstance(beta, int | float) and not isinstance(beta, bool) and beta > 0
        require(fits, "train_cfg.smoothl1_beta", "must be a number above 0", beta)
        return {
            "loss_cls": LOSSES.build({"type": "CrossEntropyLoss", "reduction": "none"}),
            "loss_bbox": LOSSES.build({"type": "SmoothL1Loss", "beta": beta}),
        }

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        levels = self.maps_of(call, "cls_scores")
        sizes = [tuple(level.shape[2:]) for level in levels]
        anchors, _, targets = self.targets(call, levels[0].device, sizes)
        avg_factor = sum(one.avg_factor for one in targets)
        scores = torch.cat([flat(level, self.cls_channels) for level in levels], 1)
        boxes = torch.cat([flat(level, 4) for level in self.maps_of(call, "bbox_preds")], 1)
        if self.reg_decoded_bbox:
            every = torch.cat(anchors)
            boxes = torch.stack([self.coder.decode(every, own) for own in boxes])
        losses: dict[str, list[Tensor]] = {"loss_cls": [], "loss_bbox": []}
        for own, box, image in zip(scores, boxes, targets, strict=True):
            entropy = run("loss_cls", own, image.labels, image.label_weights)
            losses["loss_cls"].append(self._mined(entropy, image.labels)[None] / avg_factor)
            wanted = image.bbox_targets, image.bbox_weights
            losses["loss_bbox"].append(run("loss_bbox", box, *wanted, avg_factor))
        return dict(losses)

    def _mined(self, entropy: Tensor, labels: Tensor) -> Tensor:
        """The sum [] of the losses [A] of positives and hard negatives."""
        positive = labels != self.num_classes
        negatives = entropy[~positive]
        positives = len(labels) - len(negatives)
        hardest = min(self.negatives_per_positive * positives, len(negatives))
        return entropy.masked_fill(~positive, 0).sum() + negatives.topk(hardest).values.sum()
