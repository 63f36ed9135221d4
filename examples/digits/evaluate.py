"""How good the detections are: average precision, as PASCAL VOC 2010 counts it.

A detection is right if it overlaps a digit of its class by IoU 0.5 or more that
no better-scored detection has taken.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.digits.anchors import all_anchors, decode, iou, rows
from examples.digits.canvases import CLASSES, Canvases
from examples.digits.detector import Detector

#: IoU above which the lower-scored of two detections of a class goes.
SAME_OBJECT = 0.3

#: IoU from which a detection has found a digit.
FOUND = 0.5

#: Score from which a detection counts for precision and recall, and is drawn. Focal loss leaves
#: scores low: it all but stops pushing once an anchor is on the right side.
SURE = 0.4

#: Scores below this are not looked at: they are the tail of the precision-recall curve.
FAINTEST = 0.05


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was found on one canvas, best first.

    Attributes:
        boxes: float32 [n, 4] in pixels.
        labels: int64 [n], the digit.
        scores: float32 [n], in 0..1.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def surer_than(self, score: float) -> "Detections":
        """Those with this score or more."""
        sure = self.scores >= score
        return Detections(
            boxes=self.boxes[sure], labels=self.labels[sure], scores=self.scores[sure]
        )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Detection quality over some canvases.

    Attributes:
        ap50: mean over the classes of average precision at IoU 0.5.
        precision: share of the detections with a score of SURE or more that are right.
        recall: share of the digits that these found.
    """

    ap50: float
    precision: float
    recall: float


@torch.no_grad()
def detect(model: Detector, images: Tensor) -> list[Detections]:
    """Detections on each of the images [B, 1, S, S]. Leaves the model in eval mode."""
    model.eval()
    maps = model(images)
    best, labels = rows(maps["cls_scores"], CLASSES).sigmoid().max(-1)
    boxes = decode(all_anchors(), rows(maps["bbox_preds"], 4))
    return [_suppress(*parts) for parts in zip(boxes, labels, best, strict=True)]


def matches(found: Detections, boxes: Tensor, labels: Tensor) -> Tensor:
    """Which digit each detection of a canvas has found, int64 [n]; -1 for none.

    Parameters:
        found: detections, best first: the best one takes a digit.
        boxes: [D, 4], where the digits are.
        labels: [D], what they are; -1 where there is none.
    """
    overlap = iou(found.boxes, boxes) * (found.labels[:, None] == labels)
    taken = torch.full((len(found.scores),), -1)
    for i, row in enumerate(overlap):
        best = int(row.argmax())
        if row[best] >= FOUND:
            taken[i] = best
            overlap[:, best] = 0
    return taken


def quality(found: list[Detections], canvases: Canvases) -> Quality:
    """How well detections, one item a canvas, match what is on the canvases."""
    right = [
        matches(own, boxes, labels) >= 0
        for own, boxes, labels in zip(found, canvases.boxes, canvases.labels, strict=True)
    ]
    hits, scores = torch.cat(right), torch.cat([own.scores for own in found])
    claimed = torch.cat([own.labels for own in found])
    precisions = [
        _average_precision(
            hits[claimed == digit], scores[claimed == digit], int((canvases.labels == digit).sum())
        )
        for digit in range(CLASSES)
    ]
    sure = hits[scores >= SURE]
    return Quality(
        ap50=sum(precisions) / CLASSES,
        precision=float(sure.float().mean()),
        recall=float(sure.sum() / (canvases.labels >= 0).sum()),
    )


def _suppress(boxes: Tensor, labels: Tensor, scores: Tensor) -> Detections:
    """Greedy non-maximum suppression within each class."""
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] >= FAINTEST]
    boxes, labels, scores = boxes[order], labels[order], scores[order]
    rivals = (iou(boxes, boxes) > SAME_OBJECT) & (labels[:, None] == labels)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        keep[i] = not bool((rivals[i, :i] & keep[:i]).any())
    return Detections(boxes=boxes[keep], labels=labels[keep], scores=scores[keep])


def _average_precision(hits: Tensor, scores: Tensor, total: int) -> float:
    """Area under the precision-recall curve, precision made to fall as recall grows."""
    right = hits[scores.argsort(descending=True, stable=True)].float().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    gained = right.diff(prepend=torch.zeros(1))
    return float((envelope * gained).sum() / total)
