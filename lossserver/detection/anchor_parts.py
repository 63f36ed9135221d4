"""What heads over anchors share: their parts, the checks of a call, and the targets."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.anchor_targets import ImageTargets, Level, Targeting, levels_of
from lossserver.detection.coders import Coder
from lossserver.detection.head import Head, default, flat, trained
from lossserver.detection.images import Image, check_images, images_of
from lossserver.detection.parts import ASSIGNERS, CODERS, PRIORS, SAMPLERS
from lossserver.losses.loss import Call, require

#: Numbers that seed a random generator.
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class AnchorParts(Head):
    """Anchors, their coder, and how they get objects, as a config says it."""

    TAKES: ClassVar[frozenset[str]] = frozenset({"seed"})

    num_classes: int
    anchor_generator: dict[str, Any] = default(
        type="AnchorGenerator",
        scales=[8, 16, 32],
        ratios=[0.5, 1.0, 2.0],
        strides=[4, 8, 16, 32, 64],
    )
    bbox_coder: dict[str, Any] = default(type="DeltaXYWHBBoxCoder", clip_border=True)
    reg_decoded_bbox: bool = False
    train_cfg: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes > 0, "num_classes", "must be at least 1", self.num_classes)
        self.build()

    def build(self) -> None:
        """Make the parts, so that a config of which one cannot be made is refused at once."""
        _ = self.priors, self.coder, self.targeting

    @property
    def trained(self) -> dict[str, Any]:
        """The training part of the config."""
        return trained(self.train_cfg)

    @cached_property
    def priors(self) -> Any:
        """The generator of anchors."""
        return PRIORS.part(self.anchor_generator, "anchor_generator")

    @cached_property
    def coder(self) -> Any:
        """How a box is written as what is predicted."""
        coder = CODERS.part(self.bbox_coder, "bbox_coder")
        fits = isinstance(coder, Coder)
        require(fits, "bbox_coder.type", "must be a coder of anchors", self.bbox_coder["type"])
        return coder

    @cached_property
    def targeting(self) -> Targeting:
        """How targets are made."""
        config = self.trained.get("sampler") or {"type": "PseudoSampler"}
        sampler = SAMPLERS.part(config, "train_cfg.sampler")
        field = "train_cfg.sampler.add_gt_as_proposals"
        fits = not getattr(sampler, "add_gt_as_proposals", False)
        require(
            fits, field, "must be false: a head has no place for other boxes than anchors", True
        )
        border, weight = (self._number(name) for name in ("allowed_border", "pos_weight"))
        return Targeting(
            assigner=ASSIGNERS.part(self.trained.get("assigner"), "train_cfg.assigner"),
            sampler=sampler,
            encode=self.encode,
            background=self.num_classes,
            allowed_border=border,
            pos_weight=weight,
        )

    def _number(self, name: str) -> float:
        given = self.trained.get(name, -1)
        fits = isinstance(given, int | float) and not isinstance(given, bool)
        fits = fits and abs(given) <= torch.finfo(torch.float32).max
        require(fits, f"train_cfg.{name}", "must be a number that float32 holds", given)
        return float(given)

    @property
    @abstractmethod
    def cls_channels(self) -> int:
        """Scores of an anchor."""

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """What is to be predicted for priors and their objects' boxes."""
        encoded: Tensor = boxes if self.reg_decoded_bbox else self.coder.encode(priors, boxes)
        return encoded

    @property
    def labelled(self) -> int | None:
        """Classes that the ground truth's labels are of; None if it has no labels."""
        return self.num_classes

    def check(self, call: Call) -> None:
        count = check_images(call, classes=self.labelled)
        per_place = self.priors.num_base_priors
        self.check_maps(
            call,
            count,
            {name: [a * c for a in per_place] for name, c in self.channels.items()},
            self.priors.num_levels,
        )
        self.check_state(call)
        seed_of(call)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of an anchor in each map."""
        return {"cls_scores": self.cls_channels, "bbox_preds": 4}

    def targets(
        self,
        call: Call,
        device: torch.device,
        sizes: Sequence[tuple[int, ...]],
        anchors: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Image], list[ImageTargets]]:
        """Anchors of each level, the images, and their targets.

        Parameters:
            call: checked.
            device: where to compute.
            sizes: height and width of each level's map.
            anchors: in place of those of the generator, all of them valid.
        """
        images = images_of(call, device, labelled=self.labelled is not None)
        generator = torch.Generator().manual_seed(seed_of(call))
        every = anchors or self.priors.grid(sizes, device)
        targets = []
        for image in images:
            if anchors:
                valid = [one.new_ones(len(one), dtype=torch.bool) for one in anchors]
            else:
                valid = self.priors.valid(sizes, image.size("pad_shape"), device)
            targets.append(self.targeting.of_image(every, valid, image, generator))
        return every, images, targets

    def levels(self, call: Call) -> tuple[list[Level], int]:
        """The targets of each level, and the sum of avg_factor."""
        maps = self.maps_of(call, self.MAPS[0])
        sizes = [tuple(one.shape[2:]) for one in maps]
        anchors, _, targets = self.targets(call, maps[0].device, sizes)
        return levels_of(anchors, targets), sum(one.avg_factor for one in targets)

    def rows_of(self, call: Call, name: str, channels: int) -> list[Tensor]:
        """Predictions of each level as rows [B · n, channels], in the order of its anchors."""
        return [flat(level, channels).flatten(0, 1) for level in self.maps_of(call, name)]


@dataclass(frozen=True, kw_only=True)
class Anchored(AnchorParts):
    """Heads over anchors whose losses of scores and of boxes are their config's."""

    loss_cls: dict[str, Any] = default(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0)
    loss_bbox: dict[str, Any] = default(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0)

    @property
    def cls_channels(self) -> int:
        """One score a class, and one for background if they go through a softmax."""
        return self.num_classes + (not self.loss_cls.get("use_sigmoid", False))


def seed_of(call: Call) -> int:
    """The call's seed; 0 if it has none."""
    given = call.inputs.get("seed", 0)
    fits = type(given) is int and 0 <= given <= MAX_SEED
    require(fits, "seed", f"must be a whole number in 0..{MAX_SEED}", given)
    return int(given)
