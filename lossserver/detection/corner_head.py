"""CornerNet's head: a box as a pair of key points, its top-left and its bottom-right corner."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossserver.detection.gaussian import (
    KeyPoints,
    at_cells,
    gaussian_radius,
    heat_maps,
    peaks_of,
)
from lossserver.detection.head import NETWORK, Head, Run, default
from lossserver.detection.images import check_images
from lossserver.detection.keypoints import Objects, averaged, input_key, objects_of
from lossserver.detection.rehearsal import check_classes, rehearse
from lossserver.losses.embedding import AssociativeEmbeddingLoss
from lossserver.losses.loss import Call, refuse_pairs, require
from lossserver.registry import LOSSES, RefusedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What corners shall be; of each the top-left ones first, then the bottom-right ones.

    Attributes:
        heats: float32 [2, B, C, H, W].
        offsets: float32 [2, B, 2, H, W], x and y.
        corners: float32 [2, B, 1, H, W], 1 where a corner of any class is.
        peaks: how many peaks the heat maps have.
        cells: how many cells have a corner.
        match: int64 [n, 2, 2] an image, row and column of each object's two corners.
    """

    heats: Tensor
    offsets: Tensor
    corners: Tensor
    peaks: list[float]
    cells: list[float]
    match: list[Tensor]


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CornerHead(Head):
    """The head of CornerNet: heat maps, embeddings and offsets of boxes' corners.

    det_loss  = ½ Σ over both corners of Σ ℓ_heatmap(σ(heat), Gaussians) / peaks
    off_loss  = ½ Σ over both corners of Σ at corners ℓ_offset(offset, x - ⌊x⌋) / cells
    pull_loss, push_loss: ℓ_embedding(top-left, bottom-right, pairs of corners)

    with x a corner's place in cells of the map. The Gaussian around it has a
    radius r such that both corners within r still make a box of IoU 0.3, and
    σ = (2r + 1) / 6; where Gaussians meet the greater counts. Peaks and cells
    are at least 1.

    Parameters:
        num_classes: C.
        num_feat_levels: stacks of the network, each with all maps of its own
            and the same targets.
        corner_emb_channels: E, numbers of an embedding. With 0 there are no
            maps of embeddings, and no pull_loss and push_loss.
        loss_heatmap: config of a loss of probabilities [B, C, H, W] and targets
            shaped like them.
        loss_embedding: config of AssociativeEmbeddingLoss; None leaves out
            pull_loss and push_loss.
        loss_offset: config of a loss of [B, 2, H, W] in cells.

    Inputs:
        pred: {"tl_heats": [...], "br_heats": [...], "tl_embs": [...], "br_embs":
            [...], "tl_offs": [...], "br_offs": [...]}, a map a level, float
            [B, C, H, W] logits, [B, E, H, W] and [B, 2, H, W], H and W the same
            at all levels.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"batch_input_shape": [h, w]}, ...]}, an entry an image. Boxes are
            x1, y1, x2, y2 in pixels. The first image's batch_input_shape, or
            pad_shape where there is none as in MMDetection 2, is that of all.
            gt_bboxes_ignore is not read. A corner right of or below the map is
            in its last cell; one a cell or more left of or above it has no
            heat and its embedding at the other end of the map, as upstream.

    Returns:
        Lists of scalars, one a level: `det_loss`, `off_loss`, `pull_loss` and
        `push_loss`.

    Raises:
        ValueError: maps or boxes that do not fit, naming image and level.

    Source:
        Law & Deng, CornerNet, 2018, arXiv:1808.01244. Same values as MMDetection
        3.3.0 `CornerHead`, whose parameters of the network and of testing, and
        train_cfg, are taken and not read; it fails without embeddings.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"train_cfg"}
    MAPS: ClassVar[tuple[str, ...]] = (
        "tl_heats", "br_heats", "tl_embs", "br_embs", "tl_offs", "br_offs",
    )  # fmt: skip
    PARTS: ClassVar[tuple[str, ...]] = ("loss_heatmap", "loss_offset")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(
        {"det_loss", "off_loss", "pull_loss", "push_loss"}
    )

    num_classes: int
    num_feat_levels: int = 2
    corner_emb_channels: int = 1
    loss_heatmap: dict[str, Any] = default(
        type="GaussianFocalLoss", alpha=2.0, gamma=4.0, loss_weight=1.0
    )
    loss_embedding: dict[str, Any] | None = default(
        type="AssociativeEmbeddingLoss", pull_weight=0.25, push_weight=0.25
    )
    loss_offset: dict[str, Any] = default(type="SmoothL1Loss", beta=1.0, loss_weight=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classes(self.num_classes)
        levels, numbers = self.num_feat_levels, self.corner_emb_channels
        require(levels > 0, "num_feat_levels", "must be at least 1", levels)
        require(numbers >= 0, "corner_emb_channels", "must be at least 0", numbers)
        _ = self.embedding
        heat, offset = torch.zeros(2, self.num_classes, 2, 3), torch.zeros(2, 2, 2, 3)
        rehearse(self.losses["loss_heatmap"], "loss_heatmap", heat, heat)
        rehearse(self.losses["loss_offset"], "loss_offset", offset, offset, torch.ones(2, 1, 2, 3))

    @cached_property
    def embedding(self) -> AssociativeEmbeddingLoss | None:
        """The loss of embeddings, if they are trained."""
        if self.loss_embedding is None or self.corner_emb_channels == 0:
            return None
        found = LOSSES.part(self.loss_embedding, "loss_embedding")
        if not isinstance(found, AssociativeEmbeddingLoss):
            rule = "must be AssociativeEmbeddingLoss"
            raise RefusedError("loss_embedding.type", rule, self.loss_embedding["type"])
        return found

    @property
    def names(self) -> frozenset[str]:
        return self.OUTPUTS if self.embedding else frozenset({"det_loss", "off_loss"})

    @property
    def channels(self) -> dict[str, int]:
        """Channels of the maps that there are."""
        of = {"heats": self.num_classes, "embs": self.corner_emb_channels, "offs": 2}
        return {name: of[name[3:]] for name in self.MAPS if of[name[3:]]}

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=(input_key(call),))
        self.check_maps(call, images, self.channels, self.num_feat_levels)
        self.check_state(call)
        size = size_of(heats := self.maps_of(call, "tl_heats"))
        for level, one in enumerate(heats):
            rule = f"must have cells, and as many as the last level, {list(size)}"
            fits = tuple(one.shape[2:]) == size and one.shape[2:].numel() > 0
            require(fits, f"pred.tl_heats[{level}]", rule, list(one.shape[2:]))
        objects = objects_of(call, size, heats[0].device)
        places = places_of(objects)
        # Not a comparison with what is too far: a NaN, of a box far too large, is too far as well.
        near = (places > -places.new_tensor([size[1] + 1, size[0] + 1])).flatten(1).all(1)
        objects.refuse(~near, "must not begin a whole input before it")
        if self.embedding:
            pairs = sum((count * self.corner_emb_channels) ** 2 for count in objects.counts)
            refuse_pairs(pairs, "embeddings")

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        maps = {name: self.maps_of(call, name) for name in self.channels}
        targets = self._targets(call)
        losses: dict[str, list[Tensor]] = {name: [] for name in sorted(self.names)}
        for level in range(self.num_feat_levels):
            own = {name: found[level] for name, found in maps.items()}
            heats = (own["tl_heats"].sigmoid(), own["br_heats"].sigmoid())
            offsets = (own["tl_offs"], own["br_offs"])
            det = self._both(run, "loss_heatmap", heats, targets.heats, None, targets.peaks)
            losses["det_loss"].append(det)
            off = self._both(
                run, "loss_offset", offsets, targets.offsets, targets.corners, targets.cells
            )
            losses["off_loss"].append(off)
            if self.embedding:
                pair = {"pred": own["tl_embs"], "target": own["br_embs"], "match": targets.match}
                found = self.embedding.outputs(Call(inputs=pair))
                losses["pull_loss"].append(found["pull"])
                losses["push_loss"].append(found["push"])
        return losses

    def _both(
        self,
        run: Run,
        name: str,
        preds: tuple[Tensor, Tensor],
        targets: Tensor,
        weights: Tensor | None,
        counts: list[float],
    ) -> Tensor:
        """The mean of that loss of top-left corners and that of bottom-right ones."""
        tl, br = (
            run(
                name, pred, targets[i], None if weights is None else weights[i], averaged(counts[i])
            )
            for i, pred in enumerate(preds)
        )
        return (tl + br) / 2

    @torch.no_grad()
    def _targets(self, call: Call) -> Targets:
        heats = self.maps_of(call, "tl_heats")
        count, (height, width) = len(heats[0]), size_of(heats)
        objects = objects_of(call, (height, width), heats[0].device)
        places = places_of(objects)
        # Cut off towards 0: just left of the map is in its first column.
        cells = torch.minimum(places, places.new_tensor([width - 1, height - 1])).long()
        sides = (places[:, 1] - places[:, 0]).ceil().double()
        points = KeyPoints(
            maps=torch.cat([objects.images, objects.images + count]),
            labels=objects.labels.repeat(2),
            cells=cells.transpose(0, 1).flatten(0, 1),
            radii=gaussian_radius(sides[:, 1], sides[:, 0]).repeat(2),
        )
        shape = (2 * count, self.num_classes, height, width)
        beyond = (places - cells).transpose(0, 1).flatten(0, 1)
        peaks, corners = (one.unflatten(0, (2, count)) for one in peaks_of(points, shape))
        counted = torch.stack([peaks.sum(1), corners.flatten(1).sum(1)]).tolist()
        return Targets(
            heats=heat_maps(points, shape).unflatten(0, (2, count)),
            offsets=at_cells(points, beyond, (2 * count, height, width)).unflatten(0, (2, count)),
            corners=corners,
            peaks=counted[0],
            cells=counted[1],
            match=list(cells.flip(-1).split(objects.counts)),
        )


def size_of(heats: list[Tensor]) -> tuple[int, int]:
    """Height and width of the last level's map, which the targets have."""
    height, width = heats[-1].shape[2:]
    return height, width


def places_of(objects: Objects) -> Tensor:
    """Where the corners of each object are, [n, 2, 2]: top-left and bottom-right, x and y in cells."""
    return (objects.boxes * objects.scale).view(-1, 2, 2)
