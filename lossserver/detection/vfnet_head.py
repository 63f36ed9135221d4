"""VarifocalNet's head: points whose scores are to say how well the box overlaps its object."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import AnchorParts
from lossserver.detection.fcos_targets import RANGES, PointTargeting
from lossserver.detection.head import Run, default
from lossserver.detection.images import images_of
from lossserver.detection.point_head import joined, point_coder, sizes_of
from lossserver.detection.points import MlvlPointGenerator
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.boxes import iou
from lossserver.losses.loss import Call, Loss, require
from lossserver.registry import LOSSES

#: The least overlap that upstream takes as a weight, and the least sum of them that divides.
LEAST, LEAST_SUM = 1e-6, 1.0


class Wanted(NamedTuple):
    """Targets of the N points of all images.

    Attributes:
        points: [N, 2], where they are.
        labels: int64 [N].
        weights: [N], of labels.
        distances: [N, 4], to the object's sides.
    """

    points: Tensor
    labels: Tensor
    weights: Tensor
    distances: Tensor


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class VFNetHead(AnchorParts):
    """The head of VarifocalNet: its scores are to be the overlap of box and object.

    loss_cls     = Σ over all points of ℓ_cls(scores, q) / n
    loss_bbox    = Σ over positives of u · ℓ_bbox(box, object) / max(Σ u, 1)
    loss_bbox_rf = Σ over positives of v · ℓ_bbox_refine(refined box, object) / max(Σ v, 1)

    with u and v the IoU of the first and of the refined box with the object, no
    less than 1e-6; q is v at the object's class, else 0; n the positives of all
    images, at least 1. No gradient goes through u, v and q.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a generator of one anchor a place, by which ATSS
            assigns; its strides, and with ATSS its center_offset, place the points.
        bbox_coder: config of a coder of boxes around points.
        reg_decoded_bbox: must be true with ATSS.
        train_cfg: with ATSS: assigner, sampler (PseudoSampler if left out),
            allowed_border (pixels, below 0 is any) and pos_weight (not above 0 is 1).
        use_atss: the assigner of train_cfg gives anchors objects; if false, points
            get objects as in FCOSHead.
        strides: without ATSS, those by which center_sample_radius is measured, as
            upstream: they may differ from anchor_generator's.
        regress_ranges: without ATSS, as of FCOSHead.
        center_sampling: without ATSS, as of FCOSHead.
        center_sample_radius: without ATSS, as of FCOSHead.
        sync_num_pos: n is at least 1. If false and there is no positive, loss_cls is
            divided by float32's epsilon.
        use_vfl: ℓ_cls is loss_cls and its target q; if false it is loss_cls_fl, and
            its target the labels, with their weights.
        loss_cls: config of a loss of scores [N, C] and their targets [N, C].
            No weight reaches it: what is ignored is taken for background.
        loss_cls_fl: config of a loss of scores [N, C] and labels [N].
        loss_bbox: config of a loss of boxes [P, 4] with a weight [P].
        loss_bbox_refine: the same for refined boxes.

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...], "bbox_preds_refine": [...]},
            a map a level, float [B, C, H, W], logits, and twice [B, 4, H, W],
            distances to left, top, right and bottom in pixels.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"img_shape": [h, w], "pad_shape": [h, w]}, ...]} an entry an image,
            and "gt_bboxes_ignore" likewise, if there are such regions. Boxes
            are x1, y1, x2, y2 in pixels.
        seed: a whole number for a sampler that chooses at random; 0 if left out.

    Returns:
        Scalars: `loss_cls`, `loss_bbox` and `loss_bbox_rf`. Without a positive the
        last two are 0.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor.

    Source:
        Zhang et al., VarifocalNet: An IoU-aware Dense Object Detector, 2020,
        arXiv:2008.13367. Same values as MMDetection 3.3.0 `VFNetHead`, whose
        parameters of the network and of testing are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = AnchorParts.UNREAD | {"gradient_mul", "bbox_norm_type"}
    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds", "bbox_preds_refine")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_cls_fl", "loss_bbox", "loss_bbox_refine")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss_cls", "loss_bbox", "loss_bbox_rf"})

    anchor_generator: dict[str, Any] = default(
        type="AnchorGenerator",
        ratios=[1.0],
        octave_base_scale=8,
        scales_per_octave=1,
        center_offset=0.0,
        strides=[8, 16, 32, 64, 128],
    )
    bbox_coder: dict[str, Any] = default(type="DistancePointBBoxCoder")
    reg_decoded_bbox: bool = True
    strides: tuple[int | tuple[int, ...], ...] = (4, 8, 16, 32, 64)
    regress_ranges: tuple[tuple[float, ...], ...] = RANGES
    center_sampling: bool = False
    center_sample_radius: float = 1.5
    sync_num_pos: bool = True
    use_atss: bool = True
    use_vfl: bool = True
    loss_cls: dict[str, Any] = default(
        type="VarifocalLoss", use_sigmoid=True, alpha=0.75, gamma=2.0, iou_weighted=True
    )
    loss_cls_fl: dict[str, Any] = default(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25)
    loss_bbox: dict[str, Any] = default(type="GIoULoss", loss_weight=1.5)
    loss_bbox_refine: dict[str, Any] = default(type="GIoULoss", loss_weight=2.0)

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        super().__post_init__()
        one = set(self.priors.num_base_priors) == {1}
        require(one, "anchor_generator", "must make one anchor a place", self.anchor_generator)
        scores, box, weight = torch.ones(2, self.num_classes), torch.ones(2, 4), torch.ones(2)
        if self.use_vfl:
            rehearse(self.losses["loss_cls"], "loss_cls", scores, scores)
        else:
            rehearse(self.losses["loss_cls_fl"], "loss_cls_fl", scores, weight.long(), weight)
        for name in ("loss_bbox", "loss_bbox_refine"):
            rehearse(self.losses[name], name, box, box, weight)

    def build(self) -> None:
        _ = self.priors, self.points, self.coder
        if self.use_atss:
            rule = "must be true where use_atss is"
            require(self.reg_decoded_bbox, "reg_decoded_bbox", rule, self.reg_decoded_bbox)
            _ = self.targeting
        else:
            _ = self.of_points

    @cached_property
    def losses(self) -> dict[str, Loss]:
        """The losses, by field: of the two of scores the one in use."""
        unused = "loss_cls_fl" if self.use_vfl else "loss_cls"
        used = [name for name in self.PARTS if name != unused]
        return {name: LOSSES.part(getattr(self, name), name) for name in used}

    @cached_property
    def coder(self) -> DistancePointBBoxCoder:
        """How distances are a box."""
        return point_coder(self.bbox_coder)

    @cached_property
    def points(self) -> MlvlPointGenerator:
        """The generator of points: at the anchors' centres, or at those of the places."""
        offset = self.anchor_generator.get("center_offset", 0.0) if self.use_atss else 0.5
        return MlvlPointGenerator(strides=self.priors.strides, offset=offset)

    @cached_property
    def of_points(self) -> PointTargeting:
        """How points get objects without ATSS."""
        levels = self.priors.num_levels
        own = MlvlPointGenerator(strides=self.strides).pairs
        require(len(own) >= levels, "strides", f"must be {levels}, one a level", len(own))
        return PointTargeting(
            regress_ranges=self.regress_ranges,
            center_sample_radius=self.center_sample_radius if self.center_sampling else None,
            strides=own[:levels],
            background=self.num_classes,
        )

    @property
    def cls_channels(self) -> int:
        """One score a class, whatever the losses."""
        return self.num_classes

    @property
    def channels(self) -> dict[str, int]:
        return super().channels | {"bbox_preds_refine": 4}

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores, first, refined = (
            joined(self.maps_of(call, name), self.channels[name]).flatten(0, 1)
            for name in self.MAPS
        )
        wanted = self._wanted(call)
        positive = (wanted.labels < self.num_classes).nonzero().squeeze(1)
        at = wanted.points[positive]
        boxes = self.coder.decode(at, wanted.distances[positive])
        losses: dict[str, Any] = {}
        overlap = boxes.new_zeros(0)
        for name, output, rows in (
            ("loss_bbox", "loss_bbox", first),
            ("loss_bbox_refine", "loss_bbox_rf", refined),
        ):
            own = rows[positive]
            if not len(positive):
                losses[output] = own.sum() * 0
                continue
            decoded = self.coder.decode(at, own)
            overlap = iou(decoded.detach(), boxes).clamp(min=LEAST)
            divisor = max(float(overlap.sum()), LEAST_SUM)
            losses[output] = run(name, decoded, boxes, overlap, divisor)
        # The last overlap, that of refined boxes, is what scores are to be.
        losses["loss_cls"] = self._of_scores(run, scores, wanted, positive, overlap)
        return losses

    def _of_scores(
        self, run: Run, scores: Tensor, wanted: Wanted, positive: Tensor, overlap: Tensor
    ) -> Tensor:
        count = max(len(positive), 1) if self.sync_num_pos else len(positive)
        if not self.use_vfl:
            return run("loss_cls_fl", scores, wanted.labels, wanted.weights, count)
        quality = torch.zeros_like(scores)
        quality[positive, wanted.labels[positive]] = overlap.to(scores.dtype)
        return run("loss_cls", scores, quality, None, count)

    @torch.no_grad()
    def _wanted(self, call: Call) -> Wanted:
        maps = self.maps_of(call, "bbox_preds")
        sizes, device = sizes_of(maps), maps[0].device
        points = [one.to(maps[0].dtype) for one in self.points.grid(sizes, device)]
        images = len(maps[0])
        at = torch.cat(points).repeat(images, 1)
        if not self.use_atss:
            labels, distances = self.of_points.of_images(sizes, points, images_of(call, device))
            ones = torch.ones_like(at[:, 0])
            return Wanted(at, labels.flatten(), ones, distances.flatten(0, 1))
        _, _, targets = self.targets(call, device, sizes)
        labels, weights, boxes = (
            torch.cat([getattr(one, name) for one in targets])
            for name in ("labels", "label_weights", "bbox_targets")
        )
        return Wanted(at, labels, weights, self.coder.encode(at, boxes))
