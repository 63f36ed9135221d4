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

from lossserver.detection.anchor_parts import Anchored, seed_of
from lossserver.detection.anchor_targets import by_level
from lossserver.detection.assigned import Assigner, Predicted
from lossserver.detection.images import check_images, images_of
from lossserver.detection.parts import ASSIGNERS
from lossserver.losses.loss import Call, Loss, require
from lossserver.registry import LOSSES, RefusedError

#: Anchors of a call that gives only the sizes of its maps: a RetinaNet has 200,000 an image.
MAX_ANCHORS = 1 << 22

OF_A_HEAD = frozenset(
    {"labels", "label_weights", "bbox_targets", "bbox_weights", "pos_inds", "neg_inds"}
    | {"pos_gt_inds", "anchors", "avg_factor"}
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

    Returns:
        Of a head: lists a level, `labels` int64 [B, n], `label_weights` [B, n],
        `bbox_targets` and `bbox_weights` [B, n, 4], `anchors` [n, 4]; lists an
        image, `pos_inds` and `neg_inds` among all levels' anchors and
        `pos_gt_inds`, the object of each positive; and `avg_factor`. Of an
        assigner: lists an image, `gt_inds` (-1 ignored, 0 negative, k + 1
        for object k), `labels`, `max_overlaps`. No gradient.

    Raises:
        ValueError: a config of neither, boxes that do not fit, no sizes and no
            anchors, or more anchors than 4 million.

    Source:
        MMDetection 3.3.0, `AnchorHead.get_targets` and `BaseAssigner.assign`.
    """

    NEEDS: ClassVar[frozenset[str]] = frozenset({"target"})
    TAKES: ClassVar[frozenset[str]] = frozenset({"featmap_sizes", "anchors", "pred", "seed"})
    OUTPUTS: ClassVar[frozenset[str]] = OF_A_HEAD | OF_AN_ASSIGNER
    METRICS: ClassVar[frozenset[str]] = OUTPUTS

    of: dict[str, Any]

    def __post_init__(self) -> None:
        _ = self.part

    @cached_property
    def part(self) -> Anchored | Assigner:
        """The head, or the assigner."""
        if self.of.get("type") in ASSIGNERS:
            assigner: Assigner = ASSIGNERS.part(self.of, "of")
            return assigner
        head = LOSSES.part(self.of, "of")
        if not isinstance(head, Anchored):
            rule = "must be a head over anchors, or an assigner"
            raise RefusedError("of.type", rule, self.of["type"])
        return head

    @property
    def names(self) -> frozenset[str]:
        return OF_A_HEAD if isinstance(self.part, Anchored) else OF_AN_ASSIGNER

    def check(self, call: Call) -> None:
        seed_of(call)
        if isinstance(self.part, Anchored):
            check_images(call, classes=self.part.labelled)
            require("pred" not in call.inputs, "pred", "no head assigns by predictions", "a pred")
        else:
            count = check_images(call, classes=1 << 62, metas=())
            _check_predicted(call, count)
        if "anchors" in call.inputs:
            _check_anchors(call.inputs["anchors"])
        elif isinstance(self.part, Anchored):
            _check_sizes(call.inputs.get("featmap_sizes"), self.part.priors.num_base_priors)
        else:
            raise RefusedError("anchors", "an assigner needs its priors", "nothing")

    def outputs(self, call: Call) -> dict[str, Any]:
        device = call.inputs["target"]["gt_bboxes"][0].device
        if isinstance(self.part, Anchored):
            return self._of_head(self.part, call, device)
        return self._of_assigner(self.part, call, device)

    def _of_head(self, head: Anchored, call: Call, device: torch.device) -> dict[str, Any]:
        given = call.inputs.get("anchors")
        sizes = [tuple(size) for size in call.inputs.get("featmap_sizes", ())]
        anchors, _, targets = head.targets(
            call, device, sizes, given and [one.to(device, torch.float32) for one in given]
        )
        counts = [len(level) for level in anchors]
        dense = ("labels", "label_weights", "bbox_targets", "bbox_weights")
        sparse = ("pos_inds", "neg_inds", "pos_gt_inds")
        return {
            "anchors": anchors,
            **{name: by_level([getattr(t, name) for t in targets], counts) for name in dense},
            **{name: [getattr(t, name) for t in targets] for name in sparse},
            "avg_factor": torch.tensor(sum(one.avg_factor for one in targets)),
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


def _check_anchors(given: Any) -> None:
    fits = isinstance(given, list) and len(given) > 0
    require(fits, "anchors", "must be a list, an entry a level", type(given).__name__)
    for i, one in enumerate(given):
        fits = isinstance(one, Tensor) and one.dim() == 2 and one.is_floating_point()
        said = list(one.shape) if isinstance(one, Tensor) else type(one).__name__
        require(fits, f"anchors[{i}]", "must be a float tensor [n, 4]", said)


def _check_sizes(given: Any, per_place: list[int]) -> None:
    rule = f"must be a list of [height, width], one a level, here {len(per_place)}"
    fits = isinstance(given, list) and len(given) == len(per_place)
    fits = fits and all(
        isinstance(one, list) and len(one) == 2 and all(type(n) is int and n > 0 for n in one)
        for one in given
    )
    require(fits, "featmap_sizes", rule, given)
    total = sum(a * height * width for a, (height, width) in zip(per_place, given, strict=True))
    rule = f"must not make over {MAX_ANCHORS} anchors"
    require(total <= MAX_ANCHORS, "featmap_sizes", rule, total)
