"""FSAF's head: each object is learnt on the one level that predicts it best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.detection.anchor_parts import Anchored
from lossserver.detection.anchor_targets import ImageTargets, by_level
from lossserver.detection.head import Run, default, flat
from lossserver.detection.point_head import sizes_of
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.losses.accuracy import Accuracy
from lossserver.losses.cotangent import weighted
from lossserver.losses.loss import Call, require
from lossserver.registry import LOSSES

#: What upstream cuts predictions to, so that no predicted box is empty.
LEAST = 1e-4

#: The mean loss of an object on a level on which it has no anchor: more than any, to upstream.
ABSENT = 1e6


#: The number of no object and of no level, and the last place of a table.
NOBODY = -1


class Level(NamedTuple):
    """One level's N anchors of all images.

    Attributes:
        cls: [N, C], weighted losses of scores.
        bbox: [N], weighted losses of boxes.
        labels: int64 [N].
        owners: int64 [N], the number of each anchor's object among those of all images.
    """

    cls: Tensor
    bbox: Tensor
    labels: Tensor
    owners: Tensor

    def means(self, objects: int) -> Tensor:
        """The mean loss of each object's anchors, [objects]."""
        loss = self.cls.sum(1) + self.bbox
        index = torch.where(self.owners == NOBODY, objects, self.owners)
        sums, counts = (
            loss.new_zeros(objects + 1).index_add(0, index, one)[:objects]
            for one in (loss, torch.ones_like(loss))
        )
        return torch.where(counts > 0, sums / counts, ABSENT)

    def kept(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of both losses without what anchors lose that have an object but are not chosen."""
        keep = (self.owners == NOBODY) | chosen
        of_label = torch.ones_like(self.cls)
        of_label = F.pad(of_label, (0, 1)).scatter(
            1, self.labels[:, None], keep[:, None].to(of_label)
        )
        cls = weighted(self.cls, of_label[:, :-1])
        return cls.sum(), weighted(self.bbox, keep).sum()


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class FSAFHead(Anchored):
    """The head of FSAF: every level predicts an object, and the best one learns it.

    loss_cls  = Σ over a level's anchors and classes of w · s · ℓ_cls(score, label) / n
    loss_bbox = Σ over a level's chosen positives of ℓ_bbox(prediction, target) / n

    An object's level is that on which its anchors have the least mean of
    Σ_C w ℓ_cls + ℓ_bbox; its anchors there are chosen, and n counts those of all
    levels and images. s is 0 at the object's class of its other anchors, w is
    0 where the assigner says that an anchor is in the shadow of an object of that
    class. If nothing is chosen, n counts the negatives. The choice has no
    gradient.

    Parameters:
        num_classes: C, background not among them.
        anchor_generator: config of a prior generator; FSAF has one square anchor.
        bbox_coder: config of a box coder; FSAF's is TBLRBBoxCoder.
        reg_decoded_bbox: loss_bbox compares boxes in pixels, not encoded ones.
        loss_cls: config of a loss of scores, with use_sigmoid and reduction "none".
        loss_bbox: config of a loss of boxes, with reduction "none".
        train_cfg: assigner (FSAF's is CenterRegionAssigner), sampler
            (PseudoSampler if left out), allowed_border (pixels, below 0 is any)
            and pos_weight (not above 0 is 1).
        score_threshold: a score must be above it to count in pos_recall.

    Inputs:
        pred: {"cls_scores": [...], "bbox_preds": [...]}, a map a level, float
            [B, A · C, H, W], logits, and [B, A · 4, H, W]: not negative, and cut
            to at least 1e-4.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"img_shape": [h, w], "pad_shape": [h, w]}, ...]} an entry an image,
            and "gt_bboxes_ignore" likewise, if there are such regions. Boxes
            are x1, y1, x2, y2 in pixels.
        seed: a whole number for a sampler that chooses at random; 0 if left out.

    Returns:
        Lists of scalars, one a level: `loss_cls` and `loss_bbox`; and without
        gradient `num_pos`, the chosen anchors an image, and `pos_recall`, float
        [1], how many percent of them have their class as their highest score
        (a scalar 0 if none is chosen). If there is neither positive nor negative,
        the losses are NaN, as upstream.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level; an
            image without a valid anchor.

    Source:
        Zhu et al., Feature Selective Anchor-Free Module for Single-Shot Object
        Detection, 2019, arXiv:1903.00621. Same values as MMDetection 3.3.0
        `FSAFHead`, whose parameters of the network and of testing are taken and
        not read.
    """

    OUTPUTS: ClassVar[frozenset[str]] = frozenset(
        {"loss_cls", "loss_bbox", "num_pos", "pos_recall"}
    )
    METRICS: ClassVar[frozenset[str]] = frozenset({"num_pos", "pos_recall"})

    anchor_generator: dict[str, Any] = default(
        type="AnchorGenerator",
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
    )
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        super().__post_init__()
        sigmoid = self.loss_cls.get("use_sigmoid", False)
        require(sigmoid is True, "loss_cls.use_sigmoid", "must be true", sigmoid)
        for name, loss in self.losses.items():
            given = getattr(loss, "reduction", None)
            rule = 'must be "none": the level is chosen by the losses of its anchors'
            require(given == "none", f"{name}.reduction", rule, given)
        scores, box = torch.ones(2, self.num_classes), torch.ones(2, 4)
        labels = torch.zeros(2, dtype=torch.int64)
        rehearse(self.losses["loss_cls"], "loss_cls", scores, labels, scores)
        rehearse(self.losses["loss_bbox"], "loss_bbox", box, box, box)

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        scores = self.maps_of(call, "cls_scores")
        anchors, images, targets = self.targets(call, scores[0].device, sizes_of(scores))
        levels = self._levels(call, run, anchors, targets)
        chosen = chosen_of(levels, sum(len(image.labels) for image in images))
        found = torch.stack([own.sum() for own in chosen]).sum().float()
        negatives = sum(len(one.neg_inds) for one in targets)
        divisor = torch.where(found > 0, found, negatives)
        kept = [level.kept(own) for level, own in zip(levels, chosen, strict=True)]
        return {
            "loss_cls": [cls / divisor for cls, _ in kept],
            "loss_bbox": [bbox / divisor for _, bbox in kept],
            "num_pos": found / len(images),
            "pos_recall": self._recall(scores, levels, chosen),
        }

    def _levels(
        self, call: Call, run: Run, anchors: list[Tensor], targets: list[ImageTargets]
    ) -> list[Level]:
        counts, images = [len(level) for level in anchors], len(targets)
        columns = zip(
            self.maps_of(call, "cls_scores"),
            self.maps_of(call, "bbox_preds"),
            anchors,
            by_level([one.labels for one in targets], counts),
            by_level([self._weights(one) for one in targets], counts),
            by_level([one.bbox_targets for one in targets], counts),
            by_level([one.bbox_weights for one in targets], counts),
            by_level(_owners(call, targets), counts),
            strict=True,
        )
        levels = []
        for scores, boxes, priors, *rest in columns:
            labels, weights, bbox_targets, bbox_weights, owners = (
                one.flatten(0, 1) for one in rest
            )
            predicted = flat(boxes, 4).flatten(0, 1).clamp(min=LEAST)
            if self.reg_decoded_bbox:
                predicted = self.coder.decode(priors.repeat(images, 1), predicted)
            cls = run("loss_cls", flat(scores, self.cls_channels).flatten(0, 1), labels, weights)
            bbox = run("loss_bbox", predicted, bbox_targets, bbox_weights)
            # Without a weight above 0 some losses are one 0 for all rows.
            bbox = bbox.sum(1) if bbox.dim() > 1 else bbox.expand(len(labels))
            levels.append(Level(cls=cls, bbox=bbox, labels=labels, owners=owners))
        return levels

    def _weights(self, image: ImageTargets) -> Tensor:
        """Weights of an image's labels [A, C]: 0 where an anchor is in the shadow of that class."""
        weights = image.label_weights[:, None].repeat(1, self.num_classes)
        if "shadowed" in image.extras:
            classes = image.extras["shadowed_classes"]
            weights[image.places[:, None], classes] *= ~image.extras["shadowed"]
        return weights

    @torch.no_grad()
    def _recall(self, scores: list[Tensor], levels: list[Level], chosen: list[Tensor]) -> Tensor:
        """Percent of the chosen anchors that have their class as their highest score."""
        rows = [
            flat(one, self.cls_channels).flatten(0, 1)[own]
            for one, own in zip(scores, chosen, strict=True)
        ]
        labels = [level.labels[own] for level, own in zip(levels, chosen, strict=True)]
        inputs = {"pred": torch.cat(rows).sigmoid(), "target": torch.cat(labels)}
        return Accuracy(thresh=self.score_threshold).outputs(Call(inputs=inputs))["top1"]


def _owners(call: Call, targets: list[ImageTargets]) -> list[Tensor]:
    """Each anchor's object, int64 [A] an image: its number among those of all images, -1 if none."""
    owners, before = [], 0
    for one, boxes in zip(targets, call.inputs["target"]["gt_bboxes"], strict=True):
        own = torch.full_like(one.labels, NOBODY)
        own[one.pos_inds] = one.pos_gt_inds + before
        owners.append(own)
        before += len(boxes)
    return owners


@torch.no_grad()
def chosen_of(levels: Sequence[Level], objects: int) -> list[Tensor]:
    """Which anchors learn their object, bool [N] a level: those of the level that has it best.

    Parameters:
        levels: their losses and owners.
        objects: of all images.
    """
    means = [level.means(objects) for level in levels]
    # Who has no object looks at the last entry, which is no level.
    best = F.pad(torch.stack(means).min(0).indices, (0, 1), value=NOBODY)
    return [best[level.owners] == i for i, level in enumerate(levels)]
