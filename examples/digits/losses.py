"""The losses of the detector's head, from a server and computed here.

The local ones are written from the papers and in another way than the server's,
from the anchors to the last sum, and share no code with it: what both agree on is
then likely right.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.digits.anchors import RATIOS, SIDES, STDS, STRIDES, rows
from examples.digits.assignment import NEGATIVE, POSITIVE, assign
from examples.digits.canvases import CANVAS, CLASSES, Canvases
from examples.digits.detector import Maps
from lossclient import Client
from lossclient.torch import RemoteLoss

GAMMA, ALPHA, BETA = 2.0, 0.25, 1.0

#: Factor of the loss of boxes, which else outweighs that of scores.
BOXES = 0.3

#: What MMDetection adds to avg_factor, so that no positives are no division by zero.
EPS = torch.finfo(torch.float32).eps

#: What a trainer needs, wherever it is computed: from the detector's maps and the canvases they are
#: of, int64 [B], the losses float32 [2], of the scores and of the boxes, with a gradient.
Losses = Callable[[Maps, Tensor], Tensor]

#: The head, as an MMDetection config says it. SmoothL1Loss and not L1Loss: a kink is what blows a
#: rounding difference up.
HEAD = dict(
    type="RetinaHead",
    num_classes=CLASSES,
    anchor_generator=dict(
        type="AnchorGenerator",
        strides=list(STRIDES),
        base_sizes=list(SIDES),
        scales=[1.0],
        ratios=list(RATIOS),
    ),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds=list(STDS)),
    loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=GAMMA, alpha=ALPHA, loss_weight=1.0),
    loss_bbox=dict(type="SmoothL1Loss", beta=BETA, loss_weight=BOXES),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=POSITIVE, neg_iou_thr=NEGATIVE),
        allowed_border=-1,
        pos_weight=-1,
    ),
)


def truth(canvases: Canvases, batch: Tensor) -> dict[str, Any]:
    """What is on the canvases of these indices [B], as a head takes it."""
    shape = [CANVAS, CANVAS]
    there = [canvases.labels[i] >= 0 for i in batch]
    return {
        "gt_bboxes": [canvases.boxes[i][own] for i, own in zip(batch, there, strict=True)],
        "gt_labels": [canvases.labels[i][own] for i, own in zip(batch, there, strict=True)],
        "img_metas": [{"img_shape": shape, "pad_shape": shape}] * len(batch),
    }


def remote_losses(client: Client, canvases: Canvases) -> Losses:
    """The losses, computed by the server that the client is connected to: one call."""
    head = RemoteLoss(HEAD, client)

    def losses(maps: Maps, batch: Tensor) -> Tensor:
        levels = head(maps, truth(canvases, batch))
        return torch.stack([sum(levels["loss_cls"]), sum(levels["loss_bbox"])])

    return losses


def local_losses(canvases: Canvases, *, gamma: float = GAMMA) -> Losses:
    """The losses, computed here. Another gamma is for seeing what a wrong loss does."""
    targets = assign(canvases)

    def losses(maps: Maps, batch: Tensor) -> Tensor:
        labels, counted = targets.labels[batch], targets.counted[batch]
        digits = labels < CLASSES
        scores = rows(maps["cls_scores"], CLASSES)[counted]
        missed = rows(maps["bbox_preds"], 4)[digits] - targets.deltas[batch][digits]
        total = [_focal(scores, labels[counted], gamma).sum(), BOXES * _smooth_l1(missed).sum()]
        return torch.stack(total) / (digits.sum(1).clamp(min=1).sum() + EPS)

    return losses


def _focal(pred: Tensor, target: Tensor, gamma: float) -> Tensor:
    """FL(p_t) = -α_t (1 - p_t)^γ log p_t; Lin et al., 2017, arXiv:1708.02002, eq. 5."""
    own = target.unsqueeze(1) == torch.arange(pred.shape[1])
    # p_t is the sigmoid of the logit, or of its opposite where the class is not the anchor's own.
    towards = torch.where(own, pred, -pred)
    alpha_t = torch.where(own, ALPHA, 1 - ALPHA)
    return -alpha_t * torch.sigmoid(-towards) ** gamma * F.logsigmoid(towards)


def _smooth_l1(difference: Tensor) -> Tensor:
    """d² / 2β up to β, then d - β/2; Girshick, 2015, arXiv:1504.08083, eq. 3 at β = 1."""
    near = difference.abs().clamp(max=BETA)
    return near * (difference.abs() - near / 2) / BETA
