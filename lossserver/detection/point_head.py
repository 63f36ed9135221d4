"""Heads that predict at points: their points, the checks of a call, and predictions as rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.head import NETWORK, Head, default, flat
from lossserver.detection.images import check_images
from lossserver.detection.parts import CODERS
from lossserver.detection.points import MlvlPointGenerator
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.detection.side_coders import DistancePointBBoxCoder
from lossserver.losses.loss import Call
from lossserver.registry import RefusedError


@dataclass(frozen=True, kw_only=True)
class Pointed(Head):
    """What heads over points share. Nothing is random, and no size of an image is read."""

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"train_cfg"}

    num_classes: int
    strides: tuple[int | tuple[int, ...], ...] = (4, 8, 16, 32, 64)
    loss_cls: dict[str, Any] = default(
        type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0
    )
    loss_bbox: dict[str, Any] = default(type="IoULoss", loss_weight=1.0)

    def __post_init__(self) -> None:
        check_classes(self.num_classes)
        super().__post_init__()
        _ = self.points
        scores = torch.zeros(2, self.channels["cls_scores"])
        labels = torch.zeros(2, dtype=torch.int64)
        rehearse(self.losses["loss_cls"], "loss_cls", scores, labels)

    @cached_property
    def points(self) -> MlvlPointGenerator:
        """The generator of points, at the centres of their places."""
        return MlvlPointGenerator(strides=self.strides)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each map: a score a class, and one of background if a softmax wants it."""
        softmax = not self.loss_cls.get("use_sigmoid", False)
        return {"cls_scores": self.num_classes + softmax, "bbox_preds": 4}

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=())
        self.check_maps(call, images, self.channels, self.points.num_levels)
        self.check_state(call)

    def joined(self, call: Call) -> list[Tensor]:
        """The predictions of all levels, float [B, A, channels], in the order of MAPS."""
        return [joined(self.maps_of(call, name), self.channels[name]) for name in self.MAPS]

    def grid(self, call: Call) -> tuple[list[tuple[int, int]], list[Tensor]]:
        """Height and width of each level's map, and its points, [H · W, 2], as precise as predictions."""
        maps = self.maps_of(call, self.MAPS[1])
        sizes = sizes_of(maps)
        return sizes, [one.to(maps[0].dtype) for one in self.points.grid(sizes, maps[0].device)]


def point_coder(config: dict[str, Any]) -> DistancePointBBoxCoder:
    """The box coder of a config, which must be one of boxes around points.

    Raises:
        RefusedError: it is another.
    """
    coder = CODERS.part(config, "bbox_coder")
    if isinstance(coder, DistancePointBBoxCoder):
        return coder
    rule = "must be a coder of boxes around points, DistancePointBBoxCoder"
    raise RefusedError("bbox_coder.type", rule, config["type"])


def joined(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Maps [B, channels, H, W] of all levels as rows [B, A, channels]."""
    return torch.cat([flat(level, channels) for level in maps], 1)


def sizes_of(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Height and width of each level's map."""
    return [(level.shape[2], level.shape[3]) for level in maps]
