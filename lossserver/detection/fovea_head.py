"""FoveaBox's head: points in the middle of an object predict its sides, if it is of their level's size."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.head import Run
from lossserver.detection.images import Image, images_of
from lossserver.detection.places import Reach, smallest
from lossserver.detection.point_head import Pointed
from lossserver.detection.rehearsal import rehearse
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.boxes import areas, sizes
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES

#: Distances in base edges are kept in 1/16..16.
FARTHEST = 16.0


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FoveaHead(Pointed):
    """The head of FoveaBox: the points in an object's middle part predict its sides.

    loss_cls  = Σ over all points of ℓ_cls(scores, label) / (n + B)
    loss_bbox = Σ over positives of ℓ_bbox(prediction, log(d / e)) / n

    with d the distances of a point to its object's left, top, right and bottom,
    d / e kept in 1/16..16, e the level's base edge, n the positives of all B
    images. An object whose root of area is in a level's range is there on the
    places within the box around its centre that is σ of its size; where several
    are, the smallest.

    Parameters:
        num_classes: C, background not among them.
        strides: pixels from point to point, a level each.
        base_edge_list: e of each level, in pixels.
        scale_ranges: of each level, the least and the largest root of an object's
            area, in pixels, both included.
        sigma: σ, the part of an object's width and height that is its middle.
        loss_cls: config of a loss of scores. With use_sigmoid a point has C
            scores, else C + 1.
        loss_bbox: config of a loss of encoded boxes [P, 4] with a weight [P, 4].

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...]}, a map a level, float
            [B, C, H, W], logits, and [B, 4, H, W], log(d / e).
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{}, ...]}, an entry an image. Boxes are x1, y1, x2, y2 in pixels.
            Nothing of img_metas, and no region to be ignored, is read.

    Returns:
        Scalars: `loss_cls` and `loss_bbox`. Without a positive loss_bbox is 0, and
        no gradient reaches bbox_preds.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level.

    Source:
        Kong et al., FoveaBox: Beyond Anchor-based Object Detector, 2019,
        arXiv:1904.03797. Same values as MMDetection 3.3.0 `FoveaHead`, whose
        parameters of the network and of testing are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = Pointed.UNREAD | {
        "with_deform", "deform_groups", "bbox_coder",
    }  # fmt: skip
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(Pointed.PARTS)

    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    base_edge_list: tuple[float, ...] = (16.0, 32.0, 64.0, 128.0, 256.0)
    scale_ranges: tuple[tuple[float, ...], ...] = (
        (8.0, 32.0), (16.0, 64.0), (32.0, 128.0), (64.0, 256.0), (128.0, 512.0),
    )  # fmt: skip
    sigma: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        box = torch.ones(2, 4)
        rehearse(self.losses["loss_bbox"], "loss_bbox", box, box, box)
        levels, rule = len(self.strides), "must have one a level"
        # As upstream, there may be more: a config of few levels need not repeat the defaults.
        fits = len(self.base_edge_list) >= levels
        require(fits, "base_edge_list", rule, len(self.base_edge_list))
        require(len(self.scale_ranges) >= levels, "scale_ranges", rule, len(self.scale_ranges))
        for i, one in enumerate(self.scale_ranges):
            rule = "must be two numbers, the least and the largest size"
            require(len(one) == 2, f"scale_ranges[{i}]", rule, one)
        for i, edge in enumerate(self.base_edge_list):
            require(edge > 0, f"base_edge_list[{i}]", "must be above 0", edge)

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores, predicted = (rows.flatten(0, 1) for rows in self.joined(call))
        images = images_of(call, scores.device)
        labels, targets = self._targets(call, images)
        positive = (labels < self.num_classes).nonzero().squeeze(1)
        count = len(positive)
        losses = {"loss_cls": run("loss_cls", scores, labels, None, count + len(images))}
        if not count:
            return losses | {"loss_bbox": predicted.new_zeros(())}
        wanted = targets[positive].to(predicted.dtype)
        own, every = predicted[positive], torch.ones_like(wanted)
        return losses | {"loss_bbox": run("loss_bbox", own, wanted, every, count)}

    @torch.no_grad()
    def _targets(self, call: Call, images: list[Image]) -> tuple[Tensor, Tensor]:
        """Labels [N] and encoded boxes [N, 4] of the points of all images."""
        sizes, points = self.grid(call)
        found = [
            self._of_level(level, own.float(), size, image)
            for image in images
            for level, (own, size) in enumerate(zip(points, sizes, strict=True))
        ]
        labels, targets = zip(*found, strict=True)
        return torch.cat(labels), torch.cat(targets)

    def _of_level(
        self, level: int, points: Tensor, size: tuple[int, int], image: Image
    ) -> tuple[Tensor, Tensor]:
        if not len(image.boxes):
            labels = image.labels.new_full((len(points),), self.num_classes)
            return labels, points.new_zeros(len(points), 4)
        edges = areas(sizes(image.boxes)).sqrt()
        low, high = self.scale_ranges[level]
        edges = edges.masked_fill((edges < low) | (edges > high), torch.inf)
        # Of equal objects upstream's last one wins, painting over the others.
        boxes = (image.boxes / self.strides[level]).flip(0)
        edge, index = smallest(
            edges.flip(0),
            size,
            lambda objects: (self._middle(boxes[objects], size), None),
            torch.inf,
        )
        index = len(boxes) - 1 - index
        distances = DistancePointBBoxCoder().encode(points, image.boxes[index])
        encoded = (distances / self.base_edge_list[level]).clamp(1 / FARTHEST, FARTHEST).log()
        none = edge == torch.inf
        labels = image.labels[index].masked_fill(none, self.num_classes)
        return labels, encoded.masked_fill(none[:, None], 0)

    def _middle(self, boxes: Tensor, size: tuple[int, int]) -> Reach:
        """Which rows and columns of a map are in the middle of boxes [n, 4], in strides."""
        half = 0.5 * (boxes[:, 2:] - boxes[:, :2])
        last = boxes.new_tensor(size[::-1]) - 1
        first, final = (
            side.clamp(min=0).minimum(last)
            for side in (
                (boxes[:, :2] + (1 - self.sigma) * half - 0.5).ceil(),
                (boxes[:, :2] + (1 + self.sigma) * half - 0.5).floor(),
            )
        )
        at = [torch.arange(count, device=boxes.device)[:, None] for count in size]
        rows, columns = (
            (here >= first[:, axis]) & (here <= final[:, axis])
            for here, axis in zip(at, (1, 0), strict=True)
        )
        return Reach(rows, columns)
