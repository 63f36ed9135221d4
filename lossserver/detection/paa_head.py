"""Probabilistic anchor assignment: which candidates are positive, their losses say."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import Anchored
from lossserver.detection.anchor_targets import ImageTargets
from lossserver.detection.head import Run, default, flat
from lossserver.detection.mixture import lower_component
from lossserver.losses.boxes import iou
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES

#: The least weight of a positive's box, as upstream.
EPS = 1e-12

#: Candidates of an object and level that may be asked for. Upstream's configs have 9.
MAX_TOPK = 1 << 10


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class PAAHead(Anchored):
    """A head over anchors with PAA: an object's positives are the candidates it is easiest to learn.

    loss_cls  = Σ over anchors of w · ℓ_cls / max(P, B)
    loss_bbox = Σ over positives of IoU · ℓ_bbox / Σ IoU
    loss_iou  = Σ over positives of ℓ_centerness(prediction, IoU) / P

    Of each object the anchors that the assigner gave it are its candidates, the
    topk of least ℓ_cls + ℓ_bbox on each level. A mixture of two normal
    distributions is fitted to these losses; the lower one's candidates, up to the
    likeliest of them, are positive, the others background. P is the number of
    positives of all B images. Neither the choice nor IoU has a gradient.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator.
        bbox_coder: config of a box coder.
        reg_decoded_bbox: must be true in earnest; if false, encoded boxes are taken for
            boxes, as upstream.
        topk: candidates of an object on a level.
        covariance_type: of the mixture; all three are the same for numbers.
        loss_cls: config of a loss of scores that can be unreduced.
        loss_bbox: config of a loss of boxes with one number a box.
        loss_centerness: config of a loss of one logit.
        train_cfg: assigner (MaxIoUAssigner), allowed_border (pixels, below 0 is any)
            and pos_weight (not above 0 is 1).

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...], "iou_preds": [...]}, a map a level,
            float [B, A · C, H, W], [B, A · 4, H, W] and [B, A, H, W].
        target: as of AnchorHead.
        seed: as of AnchorHead.

    Returns:
        Scalars `loss_cls`, `loss_bbox` and `loss_iou`; the last two are 0 without
        positives.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor.

    Source:
        Kim & Lee, Probabilistic Anchor Assignment with IoU Prediction for Object
        Detection, 2020, arXiv:2007.08103. Same values as MMDetection 3.3.0
        `PAAHead`; where its mixture collapses and raises, its variance is kept
        above 0 here.
    """

    MAPS: ClassVar[tuple[str, ...]] = ("cls_scores", "bbox_preds", "iou_preds")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_cls", "loss_bbox", "loss_centerness")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss_cls", "loss_bbox", "loss_iou"})
    UNREAD: ClassVar[frozenset[str]] = Anchored.UNREAD | {"pred_kernel_size", "score_voting"}

    reg_decoded_bbox: bool = True
    topk: int = 9
    covariance_type: Literal["diag", "full", "spherical"] = "diag"
    loss_centerness: dict[str, Any] = default(
        type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0
    )

    def build(self) -> None:
        require(1 <= self.topk <= MAX_TOPK, "topk", f"must be in 1..{MAX_TOPK}", self.topk)
        super().build()

    @property
    def channels(self) -> dict[str, int]:
        return super().channels | {"iou_preds": 1}

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        maps = self.maps_of(call, "cls_scores")
        sizes = [tuple(one.shape[2:]) for one in maps]
        anchors, images, targets = self.targets(call, maps[0].device, sizes)
        scores, boxes, quality = (
            torch.cat([flat(level, wide) for level in self.maps_of(call, name)], 1)
            for name, wide in self.channels.items()
        )
        every, counts = torch.cat(anchors), [len(level) for level in anchors]
        labels = torch.stack(
            [
                self._chosen(run, every, counts, *own)
                for own in zip(scores.detach(), boxes.detach(), targets, strict=True)
            ]
        )
        image, place = (labels < self.num_classes).nonzero(as_tuple=True)
        weights = torch.stack([one.label_weights for one in targets]).flatten()
        divisor = max(len(image), len(images))
        cls = run("loss_cls", scores.flatten(0, 1), labels.flatten(), weights, divisor)
        if not len(image):
            return {"loss_cls": cls, "loss_bbox": boxes.sum() * 0, "loss_iou": quality.sum() * 0}
        decoded = self.coder.decode(every[place], boxes[image, place])
        objects = torch.stack([one.bbox_targets for one in targets])[image, place]
        overlap = iou(decoded.detach(), objects)
        total = float(overlap.sum())
        return {
            "loss_cls": cls,
            "loss_bbox": run("loss_bbox", decoded, objects, overlap.clamp(min=EPS), total),
            "loss_iou": run(
                "loss_centerness", quality[image, place], overlap.unsqueeze(1), None, len(image)
            ),
        }

    @torch.no_grad()
    def _chosen(
        self,
        run: Run,
        anchors: Tensor,
        counts: list[int],
        scores: Tensor,
        boxes: Tensor,
        targets: ImageTargets,
    ) -> Tensor:
        """The labels [A] of one image, in which candidates that were not chosen are background."""
        labels, places = targets.labels, targets.pos_inds
        if not len(places):
            return labels
        costs = self._costs(run, anchors[places], scores[places], boxes[places], places, targets)
        starts = torch.tensor(counts, device=places.device).cumsum(0)
        level = torch.searchsorted(starts, places, right=True)
        chosen = torch.full_like(labels, self.num_classes)
        for owner in targets.pos_gt_inds.unique():
            mine = targets.pos_gt_inds == owner
            kept = torch.cat([self._least(costs, mine & (level == i)) for i in range(len(counts))])
            if len(kept) >= 2:
                kept = places[kept[self._positive(costs[kept])]]
                chosen[kept] = labels[kept]
        return chosen

    def _costs(
        self,
        run: Run,
        anchors: Tensor,
        scores: Tensor,
        boxes: Tensor,
        places: Tensor,
        targets: ImageTargets,
    ) -> Tensor:
        """ℓ_cls + ℓ_bbox of each candidate, [P]."""
        labels, weights = targets.labels[places], targets.label_weights[places]
        unreduced = {"reduction_override": "none"}
        cls = run("loss_cls", scores, labels, weights, 1.0, **unreduced)
        decoded, wanted = self.coder.decode(anchors, boxes), targets.bbox_targets[places]
        weights = targets.bbox_weights[places]
        return cls.sum(-1) + run("loss_bbox", decoded, wanted, weights, 1.0, **unreduced)

    def _least(self, costs: Tensor, of: Tensor) -> Tensor:
        """Which of the candidates in `of` (bool [P]) cost least, at most topk."""
        found = of.nonzero().squeeze(1)
        return found[costs[found].topk(min(len(found), self.topk), largest=False).indices]

    def _positive(self, costs: Tensor) -> Tensor:
        """Which of an object's candidates are positive: an index into their costs."""
        costs, order = costs.sort()
        lower, density = lower_component(costs.cpu())
        if not lower.any():
            return order[:0]
        best = int(density[lower].argmax())
        return order[lower.to(order.device)][: best + 1]
