"""Targets of anchor-based heads: assign, sample, encode, image by image.

Source: MMDetection 3.3.0, `AnchorHead.get_targets`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lossserver.detection.assigned import Assigner, Sampler
from lossserver.detection.images import Image
from lossserver.registry import RefusedError

#: Priors and boxes, [P, 4] each, to what a head is to predict.
Encode = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTargets:
    """What the anchors of one image, of all levels, are to predict.

    Attributes:
        labels: int64 [A]; the number of classes is background.
        label_weights: float32 [A]; 0 where an anchor takes no part.
        bbox_targets: float32 [A, 4], 0 where there is no object.
        bbox_weights: float32 [A, 4], 1 or 0.
        pos_inds: int64 [P], of the anchors with an object.
        neg_inds: int64 [M].
        pos_gt_inds: int64 [P], the object of each.
        avg_factor: its share of the divisor.
        places: int64 [n], the anchors that were assigned at all.
        extras: of these n, what the assigner says besides.
    """

    labels: Tensor
    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor
    pos_inds: Tensor
    neg_inds: Tensor
    pos_gt_inds: Tensor
    avg_factor: int
    places: Tensor
    extras: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Targeting:
    """How a head makes targets; the parts and numbers of its config.

    Attributes:
        assigner: gives anchors objects.
        sampler: chooses among them.
        encode: what is to be predicted for an anchor and its object.
        background: the label of no object.
        allowed_border: pixels that an anchor may be outside of its image; below 0 is any.
        pos_weight: label weight of a positive; not above 0 is 1.
    """

    assigner: Assigner
    sampler: Sampler
    encode: Encode
    background: int
    allowed_border: float
    pos_weight: float

    @torch.no_grad()
    def of_image(
        self,
        anchors: Sequence[Tensor],
        valid: Sequence[Tensor],
        image: Image,
        generator: torch.Generator,
    ) -> ImageTargets:
        """The targets of one image.

        Parameters:
            anchors: float32 [n, 4], one a level.
            valid: bool [n], one a level: whose place is within the padded image.
            image: its objects, and the img_shape of its meta.
            generator: of random numbers.
        """
        whole, inside = torch.cat(list(anchors)), self._inside(anchors, valid, image)
        levels = [int(one.sum()) for one in inside.split([len(one) for one in anchors])]
        places = inside.nonzero().squeeze(1)
        if not len(places):
            raise RefusedError("target.img_metas", "an image must have an anchor", image.meta)
        own = whole[places]
        assigned = self.assigner.assign(own, image, levels=levels)
        sampled = self.sampler.sample(assigned, own, image, generator)
        pos, neg = places[sampled.pos_inds], places[sampled.neg_inds]
        labels = whole.new_full((len(whole),), self.background, dtype=torch.int64)
        label_weights = whole.new_zeros(len(whole))
        bbox_targets, bbox_weights = torch.zeros_like(whole), torch.zeros_like(whole)
        labels[pos] = image.labels[sampled.pos_gt_inds]
        label_weights[pos] = self.pos_weight if self.pos_weight > 0 else 1.0
        label_weights[neg] = 1.0
        boxes = image.boxes[sampled.pos_gt_inds]
        bbox_targets[pos] = self.encode(own[sampled.pos_inds], boxes).to(whole.dtype)
        bbox_weights[pos] = 1.0
        return ImageTargets(
            labels=labels,
            label_weights=label_weights,
            bbox_targets=bbox_targets,
            bbox_weights=bbox_weights,
            pos_inds=pos,
            neg_inds=neg,
            pos_gt_inds=sampled.pos_gt_inds,
            avg_factor=sampled.avg_factor,
            places=places,
            extras=assigned.extras,
        )

    def _inside(self, anchors: Sequence[Tensor], valid: Sequence[Tensor], image: Image) -> Tensor:
        """Which anchors take part at all, bool [A]."""
        flags = torch.cat(list(valid))
        if self.allowed_border < 0:
            return flags
        height, width = image.size("img_shape")
        boxes, border = torch.cat(list(anchors)), self.allowed_border
        return (
            flags
            & (boxes[:, :2] >= -border).all(1)
            & (boxes[:, 2] < width + border)
            & (boxes[:, 3] < height + border)
        )


def by_level(rows: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Targets of images [A, ...] as targets of levels [B, n, ...]."""
    return list(torch.stack(list(rows)).split(list(counts), 1))


class Level(NamedTuple):
    """The anchors of one level of all images as rows, image by image, and what they shall be.

    Attributes:
        anchors: float32 [B · n, 4].
        labels: int64 [B · n].
        label_weights: float32 [B · n].
        bbox_targets: float32 [B · n, 4].
        bbox_weights: float32 [B · n, 4].
    """

    anchors: Tensor
    labels: Tensor
    label_weights: Tensor
    bbox_targets: Tensor
    bbox_weights: Tensor


def levels_of(anchors: Sequence[Tensor], targets: Sequence[ImageTargets]) -> list[Level]:
    """The targets of images, level by level."""
    counts = [len(level) for level in anchors]
    names = Level._fields[1:]
    columns = [by_level([getattr(one, name) for one in targets], counts) for name in names]
    return [
        Level(level.repeat(len(targets), 1), *(rows.flatten(0, 1) for rows in own))
        for level, *own in zip(anchors, *columns, strict=True)
    ]
