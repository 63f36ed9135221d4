"""YOLOv3's head: the grid cell that an object's centre is in predicts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchors import Anchors
from lossserver.detection.assigned import NEGATIVE, Assigner, Predicted
from lossserver.detection.cells import check_centres, responsible
from lossserver.detection.coders import YOLOBBoxCoder
from lossserver.detection.head import NETWORK, Head, Run, default, flat, trained
from lossserver.detection.images import Image, check_images, images_of
from lossserver.detection.parts import ASSIGNERS, CODERS, PRIORS
from lossserver.detection.positives import Positives, is_elementwise, positives_of
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.losses.classes import one_hot
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES

#: Where in what an anchor predicts each loss looks: x, y, w, h, confidence, scores of classes.
COLUMNS = {
    "loss_cls": slice(5, None),
    "loss_conf": slice(4, 5),
    "loss_xy": slice(0, 2),
    "loss_wh": slice(2, 4),
}

#: What an anchor predicts besides scores of classes.
OTHERS = 5


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class YOLOV3Head(Head):
    """The head of YOLOv3: anchors in the grid cells that objects' centres are in.

    loss_cls  = Σ over a level's anchors of p · ℓ_cls(scores, one-hot label)
    loss_conf = Σ over a level's anchors of a · ℓ_conf(confidence, p)
    loss_xy   = Σ over a level's anchors of p · ℓ_xy(prediction, encoded centre)
    loss_wh   = Σ over a level's anchors of p · ℓ_wh(prediction, encoded size)

    with p 1 for a positive, else 0, and a 0 for an anchor that is neither
    positive nor negative, else 1. A loss with reduction "mean" divides by all
    elements of the level, those of weight 0 among them; nothing divides by the
    number of positives.

    Parameters:
        num_classes: C.
        anchor_generator: config of a prior generator that makes boxes.
        bbox_coder: config of a box coder, YOLOBBoxCoder.
        featmap_strides: what the coder divides by, a number a level.
        one_hot_smoother: s in [0, 1]: a target of classes is (1 - s) · one-hot + s / C.
        loss_cls: config of a loss of scores [B, A, C] and targets like them. Of
            an elementwise loss only the positives, [P, C], are computed, and so
            below.
        loss_conf: config of a loss of confidences [B, A, 1].
        loss_xy: config of a loss of encoded centres [B, A, 2].
        loss_wh: config of a loss of encoded sizes [B, A, 2].
        train_cfg: assigner, GridAssigner. Nothing is sampled: a sampler is
            refused, as upstream cannot build one.

    Inputs:
        pred: {"pred_maps": [...]}, a map a level, float [B, A · (5 + C), H, W]:
            of each anchor x, y, w, h, confidence and scores, all raw.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{}, ...]}, an entry an image. Boxes are x1, y1, x2, y2 in pixels,
            with their centres in the maps. Nothing of img_metas, and no region
            to be ignored, is read.

    Returns:
        Lists of scalars, one a level: `loss_cls`, `loss_conf`, `loss_xy`, `loss_wh`.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; a box
            whose centre is outside of a map. One beside it may fall into a cell
            of the row before or after instead, as upstream.

    Source:
        Redmon and Farhadi, YOLOv3: An Incremental Improvement, 2018,
        arXiv:1804.02767. Same values as MMDetection 3.3.0 `YOLOV3Head`, whose
        parameters of the network and of testing are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"out_channels"}
    MAPS: ClassVar[tuple[str, ...]] = ("pred_maps",)
    PARTS: ClassVar[tuple[str, ...]] = tuple(COLUMNS)
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    num_classes: int
    anchor_generator: dict[str, Any] = default(
        type="YOLOAnchorGenerator",
        base_sizes=[
            [[116, 90], [156, 198], [373, 326]],
            [[30, 61], [62, 45], [59, 119]],
            [[10, 13], [16, 30], [33, 23]],
        ],
        strides=[32, 16, 8],
    )
    bbox_coder: dict[str, Any] = default(type="YOLOBBoxCoder")
    featmap_strides: tuple[int, ...] = (32, 16, 8)
    one_hot_smoother: float = 0.0
    loss_cls: dict[str, Any] = default(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
    loss_conf: dict[str, Any] = default(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
    loss_xy: dict[str, Any] = default(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
    loss_wh: dict[str, Any] = default(type="MSELoss", loss_weight=1.0)
    train_cfg: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classes(self.num_classes)
        smoother = self.one_hot_smoother
        require(0 <= smoother <= 1, "one_hot_smoother", "must be in [0, 1]", smoother)
        strides, levels = self.featmap_strides, self.priors.num_levels
        rule = f"must have a number above 0 for each level, here {levels}"
        fits = len(strides) == levels and all(stride > 0 for stride in strides)
        require(fits, "featmap_strides", rule, list(strides))
        rule = "must be YOLOBBoxCoder, which divides by the stride"
        require(isinstance(self.coder, YOLOBBoxCoder), "bbox_coder", rule, self.bbox_coder)
        require(isinstance(self.priors, Anchors), "anchor_generator", "must make boxes", "points")
        _ = self.assigner
        for name, columns in zip(self.PARTS, (self.num_classes, 1, 2, 2), strict=True):
            one, weight = torch.zeros(1, 1, columns), torch.ones(1, 1, 1)
            rehearse(self.losses[name], name, one, one, weight, avg_factor=None)

    @cached_property
    def priors(self) -> Any:
        """The generator of anchors."""
        return PRIORS.part(self.anchor_generator, "anchor_generator")

    @cached_property
    def coder(self) -> Any:
        """How a box is written as what is predicted."""
        return CODERS.part(self.bbox_coder, "bbox_coder")

    @cached_property
    def assigner(self) -> Assigner:
        """How anchors get objects."""
        train = trained(self.train_cfg)
        sampler = train.get("sampler")
        require(sampler is None, "train_cfg.sampler", "must be left out: none samples", sampler)
        found: Assigner = ASSIGNERS.part(train.get("assigner"), "train_cfg.assigner")
        unknown = sorted(found.needs - {"responsible"})
        require(not unknown, "train_cfg.assigner", "must be one of a grid", f"needs {unknown}")
        return found

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=())
        per_place = self.priors.num_base_priors
        channels = [count * (OTHERS + self.num_classes) for count in per_place]
        self.check_maps(call, images, {"pred_maps": channels}, self.priors.num_levels)
        self.check_state(call)
        for i, image in enumerate(images_of(call, torch.device("cpu"))):
            where = f"target.gt_bboxes[{i}]"
            check_centres(self.priors, self._sizes(call), image.boxes, where)

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        maps, sizes = self.maps_of(call, "pred_maps"), self._sizes(call)
        images = images_of(call, maps[0].device)
        anchors = self.priors.grid(sizes, maps[0].device)
        objects = self._objects(anchors, sizes, images)
        losses: dict[str, list[Tensor]] = {name: [] for name in self.PARTS}
        for level, own, found, stride in zip(
            maps, anchors, objects, self.featmap_strides, strict=True
        ):
            rows, positives = flat(level, OTHERS + self.num_classes), positives_of(found, images)
            at = positives.images, positives.places
            targets = self._targets(own[positives.places], positives, stride).to(rows.dtype)
            counted = (found >= NEGATIVE).unsqueeze(2).to(rows.dtype)
            chosen = rows[at]
            for name, column in COLUMNS.items():
                target, every = targets[:, column], rows[..., column]
                if name in self.means:
                    value = run(name, chosen[:, column], target, reduction_override="sum")
                    value = value / every.numel() if self.means[name] else value
                else:
                    aim, weight = torch.zeros_like(every), torch.zeros_like(counted)
                    aim[at], weight[at] = target, 1
                    value = run(name, every, aim, counted if name == "loss_conf" else weight)
                losses[name].append(value)
        return dict(losses)

    @cached_property
    def means(self) -> dict[str, bool]:
        """Losses to compute of the positives alone, since most anchors are none: whether each is a mean."""
        columns = {"loss_cls": self.num_classes, "loss_xy": 2, "loss_wh": 2}
        return {
            name: loss.reduction == "mean"
            for name, loss in self.losses.items()
            if name in columns and is_elementwise(loss, torch.zeros(1, 2, columns[name]))
        }

    def _sizes(self, call: Call) -> list[tuple[int, int]]:
        """Height and width of each level's map."""
        return [(one.shape[2], one.shape[3]) for one in self.maps_of(call, "pred_maps")]

    @torch.no_grad()
    def _objects(
        self, anchors: Sequence[Tensor], sizes: Sequence[tuple[int, int]], images: Sequence[Image]
    ) -> list[Tensor]:
        """The objects of each level's anchors, [B, n]."""
        counts = [len(level) for level in anchors]
        assigned = [
            self.assigner.assign(
                torch.cat(list(anchors)),
                image,
                levels=counts,
                predicted=Predicted(responsible=responsible(self.priors, sizes, image.boxes)),
            )
            for image in images
        ]
        return list(torch.stack([one.gt_inds for one in assigned]).split(counts, 1))

    @torch.no_grad()
    def _targets(self, anchors: Tensor, positives: Positives, stride: int) -> Tensor:
        """What positive anchors [P, 4] are to predict, [P, 5 + C]."""
        box = self.coder.encode(anchors, positives.boxes, stride)
        sure = one_hot(positives.labels, box.new_zeros(len(box), self.num_classes))
        likely = sure * (1 - self.one_hot_smoother) + self.one_hot_smoother / self.num_classes
        return torch.cat((box, torch.ones_like(box[:, :1]), likely), 1)
