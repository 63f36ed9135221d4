"""FCOS's head: points that predict how far the sides of their object are, and how central they are."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.fcos_targets import RANGES, PointTargeting
from lossserver.detection.head import Run, default
from lossserver.detection.images import images_of
from lossserver.detection.point_head import Pointed, point_coder
from lossserver.detection.rehearsal import rehearse
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES

#: Upstream's least divisor of loss_bbox.
LEAST = 1e-6


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FCOSHead(Pointed):
    """The head of FCOS: each point is for one object or none, and predicts its sides.

    loss_cls        = Σ over all points of ℓ_cls(scores, label) / n
    loss_bbox       = Σ over positives of c · ℓ_bbox(decoded box, box) / Σ c
    loss_centerness = Σ over positives of ℓ_centerness(centerness, c) / n

    c = √(min(l, r) / max(l, r) · min(t, b) / max(t, b))                  (eq. 3)

    with l, t, r, b the distances of a point to its object's left, top, right and
    bottom, and n the positives of all images, at least 1. A point is for the
    smallest of the objects that it is inside of and for which max(l, t, r, b) is
    in its level's range.

    Parameters:
        num_classes: C, background not among them.
        strides: pixels from point to point, a level each; a number or (w, h).
        regress_ranges: of each level, the least and the largest distance to the
            farthest side, in pixels, both included.
        center_sampling: a point must also be near its object's centre.
        center_sample_radius: how near, in strides, in x and in y.
        norm_on_bbox: distances are in strides. As upstream they stay so when boxes
            are decoded, around a point that is in pixels.
        bbox_coder: config of a coder of boxes around points.
        loss_cls: config of a loss of scores. With use_sigmoid a point has C
            scores, else C + 1.
        loss_bbox: config of a loss of decoded boxes [P, 4] with a weight [P].
        loss_centerness: config of a loss of centerness logits [P] and targets [P].

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...], "centernesses": [...]}, a
            map a level, float [B, C, H, W], [B, 4, H, W] and [B, 1, H, W];
            scores and centerness as logits, distances l, t, r, b as they are:
            the network has made them positive.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{}, ...]}, an entry an image. Boxes are x1, y1, x2, y2 in pixels.
            Nothing of img_metas, and no region to be ignored, is read.

    Returns:
        Scalars: `loss_cls`, `loss_bbox` and `loss_centerness`. Without a positive
        the last two are 0.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level.

    Source:
        Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, 2019,
        arXiv:1904.01355. Same values as MMDetection 3.3.0 `FCOSHead`, whose
        parameters of the network and of testing are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = Pointed.UNREAD | {"centerness_on_reg", "cls_predictor_cfg"}
    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds", "centernesses")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_centerness")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    regress_ranges: tuple[tuple[float, ...], ...] = RANGES
    center_sampling: bool = False
    center_sample_radius: float = 1.5
    norm_on_bbox: bool = False
    bbox_coder: dict[str, Any] = default(type="DistancePointBBoxCoder")
    loss_centerness: dict[str, Any] = default(
        type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.coder, self.targeting
        box, number = torch.ones(2, 4), torch.ones(2)
        rehearse(self.losses["loss_bbox"], "loss_bbox", box, box, number)
        rehearse(self.losses["loss_centerness"], "loss_centerness", number, number)

    @cached_property
    def coder(self) -> DistancePointBBoxCoder:
        """How distances are a box."""
        return point_coder(self.bbox_coder)

    @cached_property
    def targeting(self) -> PointTargeting:
        """How points get objects."""
        return PointTargeting(
            regress_ranges=self.regress_ranges,
            center_sample_radius=self.center_sample_radius if self.center_sampling else None,
            strides=self.points.pairs,
            background=self.num_classes,
        )

    @property
    def channels(self) -> dict[str, int]:
        return super().channels | {"centernesses": 1}

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores, distances, centerness = (rows.flatten(0, 1) for rows in self.joined(call))
        points, labels, wanted = self._targets(call)
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        count = max(len(positive), 1)
        losses = {"loss_cls": run("loss_cls", scores, labels, None, count)}
        own, central = distances[positive], centerness[positive, 0]
        if not len(positive):
            # Upstream's sums of nothing, which reach every prediction with a gradient of 0.
            return losses | {"loss_bbox": own.sum(), "loss_centerness": central.sum()}
        at, wanted = points[positive], wanted[positive]
        weight = centerness_of(wanted)
        decoded, boxes = self.coder.decode(at, own), self.coder.decode(at, wanted)
        divisor = max(float(weight.sum()), LEAST)
        losses["loss_bbox"] = run("loss_bbox", decoded, boxes, weight, divisor)
        losses["loss_centerness"] = run("loss_centerness", central, weight, None, count)
        return losses

    @torch.no_grad()
    def _targets(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Of the points of all images: where they are [N, 2], labels [N] and distances [N, 4]."""
        sizes, points = self.grid(call)
        images = images_of(call, points[0].device)
        labels, distances = self.targeting.of_images(sizes, points, images)
        if self.norm_on_bbox:
            levels = zip(points, self.points.pairs, strict=True)
            distances = distances / torch.cat(
                [own.new_tensor(pair * 2).expand(len(own), 4) for own, pair in levels]
            )
        at = torch.cat(points).repeat(len(images), 1)
        return at, labels.flatten(), distances.flatten(0, 1)


def centerness_of(distances: Tensor) -> Tensor:
    """How central points are [P], 1 in the middle, of distances [P, 4] to left, top, right, bottom."""
    low, high = distances[:, :2], distances[:, 2:]
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(1).sqrt()
