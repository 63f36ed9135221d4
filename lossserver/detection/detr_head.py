"""DETR's head: queries that say a set of objects, matched with those that there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.assigned import Assigner
from lossserver.detection.assigners.hungarian import HungarianAssigner
from lossserver.detection.head import NETWORK, Head, Run, default
from lossserver.detection.images import Image, check_images, images_of
from lossserver.detection.matched import corners_of, match
from lossserver.detection.parts import ASSIGNERS
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.losses.boxes import iou
from lossserver.losses.gfocal import QualityFocalLoss
from lossserver.losses.loss import Call, Loss, floating, refuse_pairs, require
from lossserver.registry import LOSSES, RefusedError

#: Decoder layers that a call may bring; DETR has 6.
MAX_LAYERS = 32


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class DETRHead(Head):
    """The head of DETR: in each decoder layer each object is matched with one query.

    loss_cls  = Σ over queries of ℓ_cls(scores, label) / (n + w (BQ - n))
    loss_bbox = Σ over matched queries of ℓ_bbox(prediction, box) / n
    loss_iou  = Σ over matched queries of ℓ_iou(prediction, box in pixels) / n

    with n the matched queries of the layer and w bg_cls_weight; no divisor is
    below 1. The matching is that of least total cost; no gradient goes through
    it. A box is centre, width and height, as shares of the image.

    Parameters:
        num_classes: C, background not among them.
        sync_cls_avg_factor: whether trainers share the divisor of loss_cls. In
            one call it is the same, but where it is 1 or more without being
            raised to it, loss_cls is [1] then, as upstream.
        loss_cls: config of a loss of class scores. With use_sigmoid a query has
            C scores, else C + 1, the last for no object. class_weight is one
            number here, the weight of an object; bg_cls_weight, w, that of no
            object. Without class_weight w is 0 in the divisor.
        loss_bbox: config of a loss of boxes as they are predicted.
        loss_iou: config of a loss of boxes x1, y1, x2, y2 in pixels.
        train_cfg: assigner, a HungarianAssigner. Nothing is sampled.

    Inputs:
        pred: {"all_layers_cls_scores": float [L, B, Q, C or C + 1] logits,
            "all_layers_bbox_preds": float [L, B, Q, 4] in 0..1}; L decoder
            layers, Q queries.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"img_shape": [h, w]}, ...]}, an entry an image. Boxes are x1, y1,
            x2, y2 in pixels. There may be no gt_bboxes_ignore.

    Returns:
        Scalars: `loss_cls`, `loss_bbox` and `loss_iou` of the last layer, and
        `d0.loss_cls` and so on of each before it.

    Raises:
        ValueError: predictions or boxes that do not fit, naming the image; a
            class_weight or bg_cls_weight that is no float, as upstream; a
            sampler.

    Source:
        Carion et al., End-to-End Object Detection with Transformers, 2020,
        arXiv:2005.12872. Same values as MMDetection 3.3.0 `DETRHead`, whose
        parameters of the network and of testing are taken and not read. In
        float64 upstream fails. Costs that are not finite, at which it fails,
        are matched last.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"embed_dims", "num_reg_fcs"}
    MAPS: ClassVar[tuple[str, ...]] = ("all_layers_cls_scores", "all_layers_bbox_preds")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_iou")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    num_classes: int
    sync_cls_avg_factor: bool = False
    loss_cls: dict[str, Any] = default(
        type="CrossEntropyLoss",
        bg_cls_weight=0.1,
        use_sigmoid=False,
        loss_weight=1.0,
        class_weight=1.0,
    )
    loss_bbox: dict[str, Any] = default(type="L1Loss", loss_weight=5.0)
    loss_iou: dict[str, Any] = default(type="GIoULoss", loss_weight=2.0)
    train_cfg: dict[str, Any] | None = default(
        assigner={
            "type": "HungarianAssigner",
            "match_costs": [
                {"type": "ClassificationCost", "weight": 1.0},
                {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
                {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
            ],
        }
    )

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        super().__post_init__()
        _ = self.assigner
        scores, boxes = torch.zeros(2, self.scores), torch.zeros(2, 4)
        labels, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2)
        target = [labels, ones] if self.by_quality else labels
        rehearse(self.losses["loss_cls"], "loss_cls", scores, target, ones)
        for name in ("loss_bbox", "loss_iou"):
            rehearse(self.losses[name], name, boxes, boxes, torch.ones(2, 4))

    @cached_property
    def losses(self) -> dict[str, Loss]:
        found = {name: LOSSES.part(getattr(self, name), name) for name in self.PARTS[1:]}
        config = dict(self.loss_cls)
        if self.weights is not None:
            config.pop("bg_cls_weight", None)
            config["class_weight"] = [self.weights[0]] * self.num_classes + [self.weights[1]]
        return found | {"loss_cls": LOSSES.part(config, "loss_cls")}

    @cached_property
    def weights(self) -> tuple[float, float] | None:
        """The weights of an object and of none in loss_cls; None if it has no class_weight."""
        own = self.loss_cls.get("class_weight")
        if own is None:
            return None
        none = self.loss_cls.get("bg_cls_weight", own)
        for name, given in (("class_weight", own), ("bg_cls_weight", none)):
            fits = type(given) is float
            require(fits, f"loss_cls.{name}", "must be one float, as 1.0", repr(given))
        return own, none

    @cached_property
    def assigner(self) -> Assigner:
        """How queries get objects."""
        if not self.train_cfg:
            raise RefusedError("train_cfg", "must be given: it says how to assign", self.train_cfg)
        sampler = self.train_cfg.get("sampler")
        require(
            sampler is None, "train_cfg.sampler", "must be left out: all queries count", sampler
        )
        found = ASSIGNERS.part(self.train_cfg.get("assigner"), "train_cfg.assigner")
        if not isinstance(found, HungarianAssigner):
            rule, given = "must be HungarianAssigner", self.train_cfg["assigner"]["type"]
            raise RefusedError("train_cfg.assigner.type", rule, given)
        return found

    @property
    def by_quality(self) -> bool:
        """Whether scores shall be the overlap with the object, and not 1."""
        return isinstance(self.losses["loss_cls"], QualityFocalLoss)

    @property
    def scores(self) -> int:
        """Scores of a query."""
        sigmoid = getattr(self.losses["loss_cls"], "use_sigmoid", None)
        if sigmoid is None:
            raise RefusedError("loss_cls.type", "must be a loss of classes", self.loss_cls["type"])
        return self.num_classes + (not sigmoid)

    @property
    def names(self) -> frozenset[str]:
        layers = ["", *(f"d{layer}." for layer in range(MAX_LAYERS - 1))]
        return frozenset(layer + name for layer in layers for name in self.PARTS)

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=("img_shape",))
        target = call.inputs["target"]
        ignored = target.get("gt_bboxes_ignore")
        require(ignored is None, "target.gt_bboxes_ignore", "must be left out", "a list")
        layers, queries = self._check_pred(call.inputs["pred"], images)
        known = {f"{prefix(layer, layers)}{name}" for layer in range(layers) for name in self.PARTS}
        for unknown in sorted(call.grad_output.keys() - known):
            raise RefusedError(f"grad_output.{unknown}", f"there are {layers} layers", unknown)
        objects = sum(boxes.numel() for boxes in target["gt_bboxes"])  # four times their number
        refuse_pairs(queries * objects, "coordinates of queries and objects")
        self.check_state(call)

    def _check_pred(self, pred: Any, images: int) -> tuple[int, int]:
        """The number of layers and that of queries."""
        known = ", ".join(self.MAPS)
        if not isinstance(pred, Mapping) or set(pred) != set(self.MAPS):
            given = sorted(pred) if isinstance(pred, Mapping) else type(pred).__name__
            raise RefusedError("pred", f"must be a map of {known}", given)
        scores, boxes = (pred[name] for name in self.MAPS)
        for name, one in pred.items():
            field = f"pred.{name}"
            require(isinstance(one, Tensor), field, "must be one tensor", type(one).__name__)
            floating(one, field)
        fits = scores.dim() == 4 and tuple(scores.shape[1::2]) == (images, self.scores)
        rule = f"must be [layers, {images}, queries, {self.scores}]"
        require(fits, f"pred.{self.MAPS[0]}", rule, list(scores.shape))
        layers, _, queries, _ = scores.shape
        rule = f"must have 1..{MAX_LAYERS} layers"
        require(0 < layers <= MAX_LAYERS, f"pred.{self.MAPS[0]}", rule, layers)
        wanted = [*scores.shape[:3], 4]
        fits = list(boxes.shape) == wanted
        require(fits, f"pred.{self.MAPS[1]}", f"must be {wanted}", list(boxes.shape))
        return layers, queries

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores, boxes = (call.inputs["pred"][name] for name in self.MAPS)
        images = images_of(call, scores.device)
        shapes = [image.meta["img_shape"][:2] for image in images]
        sides = [[float(side) for side in (w, h, w, h)] for h, w in shapes]
        pixels = torch.tensor(sides, device=scores.device)
        losses: dict[str, Any] = {}
        for layer in range(len(scores)):
            own = self._of_layer(run, scores[layer], boxes[layer], images, pixels.unsqueeze(1))
            losses |= {prefix(layer, len(scores)) + name: one for name, one in own.items()}
        return losses

    def _of_layer(
        self, run: Run, scores: Tensor, boxes: Tensor, images: list[Image], pixels: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one layer's [B, Q, ...], pixels [B, 1, 4] being the images' sizes."""
        matched = match(self.assigner, scores, boxes, images, pixels, self.num_classes)
        found = int(matched.positive.sum())
        scale = pixels.to(boxes.dtype).expand_as(boxes).flatten(0, 1)
        rows, wanted = boxes.flatten(0, 1), matched.boxes.to(boxes.dtype)
        corners, own_corners = corners_of(rows), corners_of(wanted)
        weights = matched.positive.unsqueeze(1).expand_as(rows).to(rows.dtype)
        target: Any = matched.labels
        if self.by_quality:
            target = [matched.labels, iou(corners.detach(), own_corners)]
        none = self.weights[1] if self.weights else 0
        share, ones = found + (len(rows) - found) * none, scores.new_ones(len(rows))
        loss_cls = run("loss_cls", scores.flatten(0, 1), target, ones, max(share, 1))
        shared = self.sync_cls_avg_factor and share >= 1 and loss_cls.dim() == 0
        return {
            "loss_cls": loss_cls.unsqueeze(0) if shared else loss_cls,
            "loss_bbox": run("loss_bbox", rows, wanted, weights, max(found, 1)),
            "loss_iou": run(
                "loss_iou", corners * scale, own_corners * scale, weights, max(found, 1)
            ),
        }


def prefix(layer: int, layers: int) -> str:
    """What stands before the names of a layer's losses: nothing, of the last."""
    return "" if layer == layers - 1 else f"d{layer}."
