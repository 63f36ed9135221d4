"""CenterNet's head: an object as the point at its centre."""

from dataclasses import dataclass
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
from lossserver.losses.boxes import sizes
from lossserver.losses.loss import Call
from lossserver.registry import LOSSES


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class CenterNetHead(Head):
    """The head of CenterNet: a heat map of centres, and at each its object's size and offset.

    loss_center_heatmap = Σ ℓ_heatmap(p, Gaussians) / n
    loss_wh             = Σ at centres ℓ_wh(prediction, (w, h)) / 2n
    loss_offset         = Σ at centres ℓ_offset(prediction, c - ⌊c⌋) / 2n

    with c, w and h an object's centre and size in cells of the map, and n the
    peaks of the heat map, at least 1. The Gaussian around a centre is as of
    CornerHead. Of objects with their centre in one cell the last one counts for
    size and offset.

    Parameters:
        num_classes: C.
        loss_center_heatmap: config of a loss of probabilities [B, C, H, W] and
            targets shaped like them.
        loss_wh: config of a loss of sizes, [B, 2, H, W].
        loss_offset: config of a loss of offsets, [B, 2, H, W].

    Inputs:
        pred: {"center_heatmap_preds": [...], "wh_preds": [...], "offset_preds":
            [...]}, one map each, float [B, C, H, W], [B, 2, H, W] and
            [B, 2, H, W]; heat as probabilities, not logits.
        target: {"gt_bboxes": [[n, 4], ...], "gt_labels": [[n], ...], "img_metas":
            [{"batch_input_shape": [h, w]}, ...]}, an entry an image. Boxes are
            x1, y1, x2, y2 in pixels. The first image's batch_input_shape, or
            pad_shape where there is none as in MMDetection 2, is that of all.
            gt_bboxes_ignore is not read.

    Returns:
        Scalars: `loss_center_heatmap`, `loss_wh` and `loss_offset`.

    Raises:
        ValueError: maps or boxes that do not fit, naming the image; a box whose
            centre is not on the map.

    Source:
        Zhou et al., Objects as Points, 2019, arXiv:1904.07850. Same values as
        MMDetection 3.3.0 `CenterNetHead`, whose parameters of the network and
        of testing, and train_cfg, are taken and not read.
    """

    UNREAD: ClassVar[frozenset[str]] = NETWORK | {"train_cfg"}
    MAPS: ClassVar[tuple[str, ...]] = ("center_heatmap_preds", "wh_preds", "offset_preds")
    PARTS: ClassVar[tuple[str, ...]] = ("loss_center_heatmap", "loss_wh", "loss_offset")
    OUTPUTS: ClassVar[frozenset[str]] = frozenset(PARTS)

    num_classes: int
    loss_center_heatmap: dict[str, Any] = default(type="GaussianFocalLoss", loss_weight=1.0)
    loss_wh: dict[str, Any] = default(type="L1Loss", loss_weight=0.1)
    loss_offset: dict[str, Any] = default(type="L1Loss", loss_weight=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_classes(self.num_classes)
        heat, numbers = torch.zeros(2, self.num_classes, 2, 3), torch.zeros(2, 2, 2, 3)
        rehearse(self.losses["loss_center_heatmap"], "loss_center_heatmap", heat, heat)
        for name in ("loss_wh", "loss_offset"):
            rehearse(self.losses[name], name, numbers, numbers, torch.ones_like(numbers))

    def check(self, call: Call) -> None:
        images = check_images(call, classes=self.num_classes, metas=(input_key(call),))
        channels = (self.num_classes, 2, 2)
        self.check_maps(call, images, dict(zip(self.MAPS, channels, strict=True)), 1)
        self.check_state(call)
        (heat,) = self.maps_of(call, "center_heatmap_preds")
        height, width = heat.shape[2:]
        objects = objects_of(call, (height, width), heat.device)
        centre = centres_of(objects)
        # Just left of the map is in its first column. And a NaN, of a box far too large, is not.
        inside = (centre > -1) & (centre < centre.new_tensor([width, height]))
        objects.refuse(~inside.all(1), "the centre must be inside the network's input")

    def values(self, call: Call, run: Run) -> dict[str, Any]:
        heat, *predicted = (self.maps_of(call, name)[0] for name in self.MAPS)
        target, numbers, there, peaks = self._targets(call, heat)
        heat_name, *names = self.PARTS
        losses = {heat_name: run(heat_name, heat, target, None, averaged(peaks))}
        for name, pred, wanted in zip(names, predicted, numbers, strict=True):
            losses[name] = run(name, pred, wanted, there, averaged(peaks, elements=2))
        return losses

    @torch.no_grad()
    def _targets(
        self, call: Call, heat: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, int]:
        """The heat map, sizes and offsets [B, 2, H, W], 1 where they are, and the number of peaks."""
        count, classes, height, width = heat.shape
        objects = objects_of(call, (height, width), heat.device)
        centre, own_sizes = centres_of(objects), sizes(objects.boxes) * objects.scale[:2]
        cells = centre.long()
        points = KeyPoints(
            maps=objects.images,
            labels=objects.labels,
            cells=cells,
            radii=gaussian_radius(own_sizes[:, 1], own_sizes[:, 0]),
        )
        shape = (count, classes, height, width)
        columns = torch.cat([own_sizes, centre - cells], 1)
        wanted, offsets = at_cells(points, columns, (count, height, width)).split(2, 1)
        peaks, there = peaks_of(points, shape)
        both = there.expand(-1, 2, -1, -1)
        return heat_maps(points, shape), (wanted, offsets), both, int(peaks.sum())


def centres_of(objects: Objects) -> Tensor:
    """Where each object's centre is, [n, 2], x and y in cells."""
    # In upstream's order, since what is rounded off may decide the cell.
    return (objects.boxes[:, :2] + objects.boxes[:, 2:]) * objects.scale[:2] / 2
