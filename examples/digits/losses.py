"""The two losses of the detector, from a server and computed here.

The local ones are written from the papers and in another way than the server's,
and share no code with it: what both agree on is then likely right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lossclient import Client
from lossclient.torch import RemoteLoss

GAMMA, ALPHA, BETA = 2.0, 0.25, 1.0

#: What MMDetection adds to avg_factor, so that no positives are no division by zero.
EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a trainer needs, wherever it is computed.

    Both are called as loss(pred, target, avg_factor=number of digits) and give
    a float32 [] with a gradient.

    Attributes:
        scores: of logits [N, C] and classes int64 [N], where C is background.
        offsets: of predicted and true offsets, float32 [P, 4] of the P digits.
    """

    scores: Callable[..., Tensor]
    offsets: Callable[..., Tensor]


def remote_losses(client: Client) -> Losses:
    """The losses, computed by the server that the client is connected to."""
    focal = {
        "type": "FocalLoss",
        "use_sigmoid": True,
        "gamma": GAMMA,
        "alpha": ALPHA,
        "loss_weight": 1.0,
    }
    smooth_l1 = {"type": "SmoothL1Loss", "beta": BETA, "loss_weight": 1.0}
    return Losses(scores=RemoteLoss(focal, client), offsets=RemoteLoss(smooth_l1, client))


def local_losses(*, gamma: float = GAMMA) -> Losses:
    """The losses, computed here. Another gamma is for seeing what a wrong loss does."""

    def focal(pred: Tensor, target: Tensor, *, avg_factor: float) -> Tensor:
        return _focal(pred, target, gamma).sum() / (avg_factor + EPS)

    def smooth_l1(pred: Tensor, target: Tensor, *, avg_factor: float) -> Tensor:
        return _smooth_l1(pred - target).sum() / (avg_factor + EPS)

    return Losses(scores=focal, offsets=smooth_l1)


def _focal(pred: Tensor, target: Tensor, gamma: float) -> Tensor:
    """FL(p_t) = -α_t (1 - p_t)^γ log p_t; Lin et al., 2017, arXiv:1708.02002, eq. 5."""
    own = target.unsqueeze(1) == torch.arange(pred.shape[1])
    # p_t is the sigmoid of the logit, or of its opposite where the class is not the cell's own.
    towards = torch.where(own, pred, -pred)
    alpha_t = torch.where(own, ALPHA, 1 - ALPHA)
    return -alpha_t * torch.sigmoid(-towards) ** gamma * F.logsigmoid(towards)


def _smooth_l1(difference: Tensor) -> Tensor:
    """d² / 2β up to β, then d - β/2; Girshick, 2015, arXiv:1504.08083, eq. 3 at β = 1."""
    near = difference.abs().clamp(max=BETA)
    return near * (difference.abs() - near / 2) / BETA
