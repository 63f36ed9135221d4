"""Set losses: predictions without an order, each matched with one object or with none."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.assignment import assignment
from lossserver.losses.boxes import giou
from lossserver.losses.loss import Call, Loss, require
from lossserver.losses.scene import Scene, scene_of
from lossserver.registry import LOSSES

#: The least denominator: the area of a box of a millionth of an image's side.
LEAST_AREA = 1e-12


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class HungarianLoss(Loss):
    """Set loss of DETR: each object is matched with one query, at the least cost over all of them.

    π_i = argmin_π Σ_t [-c p_π(t)(y_t) + b |b̂_π(t) - b_t|₁ - g GIoU(b̂_π(t), b_t)]     (eq. 1)

    loss_cls  = Σ_q w_q · -log p_q(y_q) / Σ_q w_q
    loss_bbox = Σ_t |b̂_π(t) - b_t|₁ / n
    loss_giou = Σ_t (1 - GIoU(b̂_π(t), b_t)) / n                                       (eq. 2)

    where π_i matches the objects t of image i, and y_q is C, no object, with
    w_q = eos_coef for a query without a match, else w_q = 1; p = softmax(logits).

    Parameters:
        cost_cls: c ≥ 0, price of an unlikely class in the matching.
        cost_bbox: b ≥ 0, price of the L1 distance in the matching.
        cost_giou: g ≥ 0, price of a small overlap in the matching.
        weight_cls: factor of loss_cls.
        weight_bbox: factor of loss_bbox.
        weight_giou: factor of loss_giou.
        eos_coef: weight ≥ 0 of the class "no object".

    Inputs:
        pred: {"logits": float [B, Q, C + 1], "boxes": float [B, Q, 4]}; boxes as
            center x, center y, width, height, in 0..1 of the image.
        target: {"labels": list of B class indices [n_i], integer in 0..C-1,
            "boxes": list of B float [n_i, 4], as pred's}.

    Returns:
        loss_cls, in nats; loss_bbox; loss_giou: scalars. n is the number of
        objects, or the call's avg_factor, such as its mean over GPUs; at least 1.
        The matching has no gradient. A cost that is not finite is replaced by one
        larger than that of all others together: a query that is NaN is matched
        last. Of more objects than queries those that cost most are left out.
        Areas count as at least 1e-12: two equal boxes without width and height have
        a GIoU of 0, without a gradient. loss_cls is NaN where no query weighs
        anything: B or Q is 0, or eos_coef is 0 and there are no objects.

    Raises:
        ValueError: a negative cost or eos_coef, a class index out of range, more
            than 2²⁴ pairs or 2³³ steps to match them, or inputs that do not fit.

    Source:
        Carion et al., End-to-End Object Detection with Transformers, 2020,
        arXiv:2005.12872, eq. 1 and 2, with the softmax, weighted mean and
        factors of the authors' code. Its auxiliary outputs are calls of their own.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"avg_factor"})
    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"loss_cls", "loss_bbox", "loss_giou"})

    cost_cls: float = 1.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    weight_cls: float = 1.0
    weight_bbox: float = 5.0
    weight_giou: float = 2.0
    eos_coef: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            require(math.isfinite(value), field.name, "must be finite", value)
            if not field.name.startswith("weight"):
                require(value >= 0, field.name, "must be at least 0", value)

    def check(self, call: Call) -> None:
        scene_of(call)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        scene = scene_of(call)
        with torch.no_grad():
            costs = self.costs(scene)
        matched, query = matching(costs, scene.counts)
        image = scene.image[matched]
        boxes, targets = scene.boxes[image, query], scene.targets[matched]
        n = max(len(scene.labels) if call.avg_factor is None else call.avg_factor, 1)
        return {
            "loss_cls": self.weight_cls * self._entropy(scene, image, query, matched),
            "loss_bbox": self.weight_bbox * (boxes - targets).abs().sum() / n,
            "loss_giou": self.weight_giou * (1 - overlap(boxes, targets)).sum() / n,
        }

    def costs(self, scene: Scene) -> Tensor:
        """[T, Q]: of matching each object with each query of its image."""
        p = scene.logits.softmax(-1)[scene.image, :, scene.labels]
        boxes, targets = scene.boxes[scene.image], scene.targets.unsqueeze(1)
        distance = (boxes - targets).abs().sum(-1)
        return (
            self.cost_bbox * distance - self.cost_cls * p - self.cost_giou * overlap(boxes, targets)
        )

    def _entropy(self, scene: Scene, image: Tensor, query: Tensor, matched: Tensor) -> Tensor:
        none = scene.logits.shape[2] - 1
        wanted = torch.full_like(scene.logits[..., 0], none, dtype=torch.int64)
        wanted[image, query] = scene.labels[matched]
        entropy = F.cross_entropy(scene.logits.flatten(0, 1), wanted.flatten(), reduction="none")
        weight = torch.where(wanted.flatten() == none, entropy.new_tensor(self.eos_coef), 1)
        return (weight * entropy).sum() / weight.sum()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """GIoU [...] of boxes [..., 4] given as centers and sizes."""
    return giou(corners(a), corners(b), LEAST_AREA)


def corners(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 of boxes [..., 4] given as centers and sizes."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([center - half, center + half], -1)


def matching(costs: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
    """Objects and their queries, of least total cost for each image's rows of [T, Q] costs.

    Done on the CPU: this waits for the device.
    """
    pairs, start = [], 0
    for rows in costs.cpu().split(counts):
        found, query = assignment(rows)
        pairs.append((found + start, query))
        start += len(rows)
    objects, queries = zip(*pairs, strict=True) if pairs else ([], [])
    nothing = torch.zeros(0, dtype=torch.int64)
    return (
        torch.cat([nothing, *objects]).to(costs.device),
        torch.cat([nothing, *queries]).to(costs.device),
    )
