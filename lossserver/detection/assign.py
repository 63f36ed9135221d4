"""Assignment by itself: what a head's anchors are to predict, without the head's predictions.

Boxes are bytes and logits are megabytes; who computes the dense loss at home needs
only this. It is served as a loss whose outputs are all metrics.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchor_parts import AnchorParts, seed_of
from lossserver.detection.anchor_targets import ImageTargets
from lossserver.detection.assigned import Assigner, Predicted
from lossserver.detection.assigners.point import PointAssigner
from lossserver.detection.images import check_images, images_of
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import Call, Loss, require
from lossserver.registry import LOSSES, RefusedError

#: Anchors of all images of a call: a RetinaNet has 200,000 an image.
MAX_ANCHORS = 1 << 23

#: Pairs of anchors and objects: half a second of overlaps. 1,000 objects of a RetinaNet have fewer.
MAX_PAIRS = 1 << 28

OF_A_HEAD = frozenset(
    {"counts", "background", "pos_weight", "avg_factor", "anchors", "pos_inds", "pos_gt_inds"}
    | {"pos_labels", "pos_bbox_targets", "neg_inds", "off_inds"}
)
OF_AN_ASSIGNER = frozenset({"gt_inds", "labels", "max_overlaps"})


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class Assign(Loss):
    """Targets of a head's anchors, or the objects of priors: assignment without a loss.

    `client.assign(cfg, target, ...)` asks for it.

    Parameters:
        of: config of a head over anchors (AnchorHead, RetinaHead, RPNHead ...), or
            of an assigner (MaxIoUAssigner, TaskAlignedAssigner ...).

    Inputs:
        target: the ground truth, as of the head. An assigner needs no sizes in
            img_metas, except HungarianAssigner.
        featmap_sizes: of a head: [height, width] of each level's map; or
        anchors: a list of float [n, 4], one a level (of a head, in place of
            featmap_sizes; of an assigner always, its priors).
        pred: of an assigner that looks at predictions: {"scores": [[n, C], ...],
            "bboxes": [[n, 4], ...]}, an entry an image.
        seed: of a sampler that chooses at random; 0 if left out.
        with_anchors: of a head: true to get the anchors, too.

    Returns:
        Of a head, indices into the anchors of all levels, a list an image:
        `pos_inds` with an object, its `pos_gt_inds`, `pos_labels` and
        `pos_bbox_targets`; and of those without, whichever are fewer, `neg_inds`
        or the `off_inds` that take no part (the other list is empty). `counts` of
        anchors a level, `background` label, label weight `pos_weight` of a
        positive, `avg_factor`, and `anchors` [n, 4] a level. `client.assign` makes
        the dense targets of it. Of an assigner: lists an image, `gt_inds` (-1
        ignored, 0 negative, k + 1 for object k), `labels`, `max_overlaps`. No
        gradient.

    Raises:
        ValueError: a config of neither, boxes that do not fit, no sizes and no
            anchors, more than 8 million anchors, or too many
            objects for them.

    Source:
        MMDetection 3.3.0, `AnchorHead.get_targets` and `BaseAssigner.assign`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"target"})
    TAKES: ClassVar[frozenset[str]] = frozenset(
        {"featmap_sizes", "anchors", "pred", "seed", "with_anchors"}
    )
    OUTPUTS: ClassVar[frozenset[str]] = OF_A_HEAD | OF_AN_ASSIGNER
    METRICS: ClassVar[frozenset[str]] = OUTPUTS

    of: dict[str, Any]

    def __post_init__(self) -> None:
        _ = self.part

    @cached_property
    def part(self) -> AnchorParts | Assigner:
        """The head, or the assigner."""
        if self.of.get("type") in ASSIGNERS:
            assigner: Assigner = ASSIGNERS.part(self.of, "of")
            return assigner
        head = LOSSES.part(self.of, "of")
        if not isinstance(head, AnchorParts):
            rule = "must be a head over anchors, or an assigner"
            raise RefusedError("of.type", rule, self.of["type"])
        _ = head.targeting  # which a head that can do without anchors may not have
        return head

    @property
    def names(self) -> frozenset[str]:
        return OF_A_HEAD if isinstance(self.part, AnchorParts) else OF_AN_ASSIGNER

    def check(self, call: Call) -> None:
        seed_of(call)
        if isinstance(self.part, AnchorParts):
            count = check_images(call, classes=self.part.labelled)
            require("pred" not in call.inputs, "pred", "no head assigns by predictions", "a pred")
        else:
            count = check_images(call, classes=1 << 62, metas=())
            _check_predicted(call, count)
        if "anchors" in call.inputs:
            # Of the assigners one takes points and strides.
            width = 3 if isinstance(self.part, PointAssigner) else 4
            _check_anchors(call.inputs["anchors"], width)
            total = sum(len(one) for one in call.inputs["anchors"])
        elif isinstance(self.part, AnchorParts):
            sizes = call.inputs.get("featmap_sizes")
            total = _check_sizes(sizes, self.part.priors.num_base_priors)
        else:
            raise RefusedError("anchors", "an assigner needs its priors", "nothing")
        rule = f"must not make over {MAX_ANCHORS} anchors, of all images together"
        require(total * count <= MAX_ANCHORS, "featmap_sizes", rule, total * count)
        pairs = total * sum(len(one) for one in call.inputs["target"]["gt_bboxes"])
        rule = f"must not make over {MAX_PAIRS} pairs with the anchors"
        require(pairs <= MAX_PAIRS, "target.gt_bboxes", rule, pairs)

    def outputs(self, call: Call) -> dict[str, Any]:
        device = call.inputs["target"]["gt_bboxes"][0].device
        if isinstance(self.part, AnchorParts):
            return self._of_head(self.part, call, device)
        return self._of_assigner(self.part, call, device)

    def _of_head(self, head: AnchorParts, call: Call, device: torch.device) -> dict[str, Any]:
        given = call.inputs.get("anchors")
        sizes = [tuple(size) for size in call.inputs.get("featmap_sizes", ())]
        anchors, _, targets = head.targets(
            call, device, sizes, given and [one.to(device, torch.float32) for one in given]
        )
        weight = head.targeting.pos_weight
        return {
            "counts": torch.tensor([len(level) for level in anchors]),
            "background": torch.tensor(head.targeting.background),
            "pos_weight": torch.tensor(weight if weight > 0 else 1.0),
            "avg_factor": torch.tensor(sum(one.avg_factor for one in targets)),
            "anchors": anchors if call.inputs.get("with_anchors") is True else [],
            "pos_inds": [one.pos_inds for one in targets],
            "pos_gt_inds": [one.pos_gt_inds for one in targets],
            "pos_labels": [one.labels[one.pos_inds] for one in targets],
            "pos_bbox_targets": [one.bbox_targets[one.pos_inds] for one in targets],
            **_others(targets),
        }

    def _of_assigner(
        self, assigner: Assigner, call: Call, device: torch.device
    ) -> dict[str, list[Tensor]]:
        levels = [one.to(device, torch.float32) for one in call.inputs["anchors"]]
        found = []
        for i, image in enumerate(images_of(call, device)):
            predicted = _predicted(call, i)
            counts = [len(level) for level in levels]
            found.append(
                assigner.assign(torch.cat(levels), image, levels=counts, predicted=predicted)
            )
        return {
            "gt_inds": [one.gt_inds for one in found],
            "labels": [one.labels for one in found],
            "max_overlaps": [one.overlaps for one in found if one.overlaps is not None],
        }


def _others(targets: list[ImageTargets]) -> dict[str, list[Tensor]]:
    """The anchors without an object, of each image: the negatives, or those left out, if fewer."""
    negatives, left_out = [], []
    for one in targets:
        off = (one.label_weights == 0).nonzero().squeeze(1)
        # Of no negatives there is nothing to list: then those left out are all the others.
        listed = 0 < len(one.neg_inds) < len(off)
        negatives.append(one.neg_inds if listed else one.neg_inds[:0])
        left_out.append(off[:0] if listed else off)
    return {"neg_inds": negatives, "off_inds": left_out}


def _predicted(call: Call, image: int) -> Predicted:
    pred = call.inputs.get("pred") or {}
    scores, boxes = pred.get("scores"), pred.get("bboxes")
    return Predicted(
        scores=None if scores is None else scores[image].detach().float(),
        boxes=None if boxes is None else boxes[image].detach().float(),
    )


def _check_predicted(call: Call, count: int) -> None:
    pred = call.inputs.get("pred")
    if pred is None:
        return
    require(isinstance(pred, Mapping), "pred", "must be a map", type(pred).__name__)
    for name, given in pred.items():
        require(name in ("scores", "bboxes"), "pred", "the keys are scores, bboxes", name)
        fits = isinstance(given, list) and len(given) == count
        fits = fits and all(isinstance(one, Tensor) and one.dim() == 2 for one in given)
        require(fits, f"pred.{name}", f"must be a list of {count} tensors [n, ...]", type(given))


def _check_anchors(given: Any, width: int) -> None:
    fits = isinstance(given, list) and len(given) > 0
    require(fits, "anchors", "must be a list, an entry a level", type(given).__name__)
    for i, one in enumerate(given):
        fits = isinstance(one, Tensor) and one.dim() == 2 and one.is_floating_point()
        said = list(one.shape) if isinstance(one, Tensor) else type(one).__name__
        rule = f"must be a float tensor [n, {width}]"
        require(fits and one.shape[1] == width, f"anchors[{i}]", rule, said)


def _check_sizes(given: Any, per_place: list[int]) -> int:
    """How many anchors there are an image."""
    rule = f"must be a list of [height, width], one a level, here {len(per_place)}"
    fits = isinstance(given, list) and len(given) == len(per_place)
    fits = fits and all(
        isinstance(one, list) and len(one) == 2 and all(type(n) is int and n > 0 for n in one)
        for one in given
    )
    require(fits, "featmap_sizes", rule, given)
    return sum(a * height * width for a, (height, width) in zip(per_place, given, strict=True))
