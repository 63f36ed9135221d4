"""YOLOX's head: points that look for their objects among all that they predict."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import NEGATIVE, Assigned, Assigner, Predicted
from lossserver.detection.head import NETWORK, Head, Run, default, flat, trained
from lossserver.detection.images import Image, check_images, images_of
from lossserver.detection.parts import ASSIGNERS, PRIORS
from lossserver.detection.positives import positives_of
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.losses.classes import one_hot
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES, RefusedError

#: What upstream adds to a size in strides before its logarithm.
EPS = 1e-8


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class YOLOXHead(Head):
    """The head of YOLOX: SimOTA gives objects to the points that already predict them best.

    loss_cls  = Σ over positives of ℓ_cls(scores, IoU · one-hot label) / n
    loss_bbox = Σ over positives of ℓ_bbox(decoded box, box) / n
    loss_obj  = Σ over all points of ℓ_obj(objectness, 1 if positive, else 0) / n
    loss_l1   = Σ over positives of ℓ_l1(prediction, encoded box) / n       (use_l1)

    with n the positives of all images, at least 1. A point at x, y with stride
    s predicts a centre (x + s p_x, y + s p_y) and a size (s e^p_w, s e^p_h).
    What is predicted decides which points are positive and what their scores
    shall be, but no gradient goes that way.

    Parameters:
        num_classes: C, background not among them.
        strides: pixels from point to point, a level each.
        use_l1: adds loss_l1; upstream a training hook sets it for the last epochs.
        loss_cls: config of a loss of class scores [P, C] and targets [P, C].
        loss_bbox: config of a loss of boxes in pixels.
        loss_obj: config of a loss of objectness [B · A, 1], as loss_cls.
        loss_l1: config of a loss of encoded boxes [P, 4].
        train_cfg: assigner, SimOTAAssigner or another that looks at
            predictions. Nothing is sampled.

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...], "objectnesses": [...]},
            a map a level, float [B, C, H, W], [B, 4, H, W] and [B, 1, H, W];
            scores and objectness as logits.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{}, ...]}, an entry an image. Boxes are x1, y1, x2, y2 in pixels.
            Nothing of img_metas, and no region to be ignored, is read.

    Returns:
        Scalars: `loss_cls`, `loss_bbox`, `loss_obj` and, with use_l1, `loss_l1`.
        Without a positive all but loss_obj are 0.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level.

    Source:
        Ge et al., YOLOX: Exceeding YOLO Series in 2021, 2021, arXiv:2107.08430.
        Same values as MMDetection 3.3.0 `YOLOXHead`, whose parameters of the
        network and of testing are taken and not read. In float64 upstream
        fails; here targets and losses stay in it.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"use_depthwise"}
    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds", "objectnesses")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_obj", "loss_l1")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    num_classes: int
    strides: tuple[int | tuple[int, ...], ...] = (8, 16, 32)
    use_l1: bool = False
    loss_cls: dict[str, Any] = default(
        type="CrossEntropyLoss", use_sigmoid=True, reduction="sum", loss_weight=1.0
    )
    loss_bbox: dict[str, Any] = default(
        type="IoULoss", mode="square", eps=1e-16, reduction="sum", loss_weight=5.0
    )
    loss_obj: dict[str, Any] = default(
        type="CrossEntropyLoss", use_sigmoid=True, reduction="sum", loss_weight=1.0
    )
    loss_l1: dict[str, Any] = default(type="L1Loss", reduction="sum", loss_weight=1.0)
    train_cfg: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classes(self.num_classes)
        unknown = sorted(self.assigner.needs - {"scores", "boxes"})
        require(not unknown, "train_cfg.assigner", "must be one of points", f"needs {unknown}")
        _ = self.points
        for name, columns in zip(self.PARTS, (self.num_classes, 4, 1, 4), strict=True):
            one = torch.zeros(1, columns)
            rehearse(self.losses[name], name, one, one, avg_factor=None)

    @property
    def names(self) -> frozenset[str]:
        return self.OUTPUTS if self.use_l1 else self.OUTPUTS - {"loss_l1"}

    @cached_property
    def points(self) -> Any:
        """The generator of points, at the corners of their places."""
        config = {"type": "MlvlPointGenerator", "strides": list(self.strides), "offset": 0}
        return PRIORS.part(config, "strides")

    @cached_property
    def assigner(self) -> Assigner:
        """How points get objects."""
        train = trained(self.train_cfg)
        found: Assigner = ASSIGNERS.part(train.get("assigner"), "train_cfg.assigner")
        return found

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each map."""
        return {"cls_scores": self.num_classes, "bbox_preds": 4, "objectnesses": 1}

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=())
        self.check_maps(call, images, self.channels, len(self.strides))
        self.check_state(call)

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores, predicted, objectness = (
            torch.cat([flat(level, channels) for level in self.maps_of(call, name)], 1)
            for name, channels in self.channels.items()
        )
        sizes = [tuple(level.shape[2:]) for level in self.maps_of(call, "cls_scores")]
        points = torch.cat(self.points.grid(sizes, scores.device, with_stride=True))
        boxes = decoded(points, predicted)
        images = images_of(call, scores.device)
        assigned = self._assigned(points, scores, boxes, objectness, images)
        objects = torch.stack([one.gt_inds for one in assigned])
        positives = positives_of(objects, images)
        at, found = (positives.images, positives.places), len(positives.places)
        count = max(found, 1)
        overlaps = torch.stack([overlaps_of(one) for one in assigned])[at]
        pairs = {
            "loss_cls": (scores, one_hot(positives.labels, scores[at]) * overlaps.unsqueeze(1)),
            "loss_bbox": (boxes, positives.boxes),
            "loss_l1": (predicted, encoded(points[positives.places], positives.boxes)),
        }
        losses = {
            # Without a positive a 0 that reaches all predictions, where a mean would be NaN.
            name: run(name, rows[at], target) / count if found else rows.sum() * 0
            for name, (rows, target) in pairs.items()
            if name in self.names
        }
        positive = (objects > NEGATIVE).flatten().unsqueeze(1).to(objectness.dtype)
        losses["loss_obj"] = run("loss_obj", objectness.flatten(0, 1), positive) / count
        return losses

    @torch.no_grad()
    def _assigned(
        self, points: Tensor, scores: Tensor, boxes: Tensor, objectness: Tensor, images: list[Image]
    ) -> list[Assigned]:
        """Which points of each image have which objects, of predictions [B, A, ...]."""
        # From the middle of the places, though predictions are decoded from their corners.
        centres = torch.cat((points[:, :2] + points[:, 2:] * 0.5, points[:, 2:]), 1)
        likely = (scores.sigmoid() * objectness.sigmoid()).sqrt()
        return [
            self.assigner.assign(centres, image, predicted=Predicted(scores=own, boxes=box))
            for image, own, box in zip(images, likely, boxes, strict=True)
        ]


def overlaps_of(assigned: Assigned) -> Tensor:
    """The overlap [A] of each point's prediction and object."""
    if assigned.overlaps is None:
        raise RefusedError("config.train_cfg.assigner", "must give overlaps", "one without")
    return assigned.overlaps


def decoded(points: Tensor, predicted: Tensor) -> Tensor:
    """The boxes [..., A, 4] that points [A, 4] with strides predict."""
    centres = predicted[..., :2] * points[:, 2:] + points[:, :2]
    halves = predicted[..., 2:].exp() * points[:, 2:] / 2
    return torch.cat((centres - halves, centres + halves), -1)


def encoded(points: Tensor, boxes: Tensor) -> Tensor:
    """What points [P, 4] with strides should predict for boxes [P, 4]."""
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    strides = points[:, 2:]
    return torch.cat(((centres - points[:, :2]) / strides, (sizes / strides + EPS).log()), 1)
