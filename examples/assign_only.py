"""Logits stay at home: python -m examples.assign_only [HOST:PORT] [--steps N].

A RetinaNet's logits are megabytes, its boxes are bytes. Here `client.assign` has the server say
what each anchor is for, by MMDetection's assigner, and the dense loss, focal and L1, is computed
where the logits are. Of the first batch the server computes the whole head, too: for the value
that it gives, and for the bytes that it takes. Starts a server of its own if no other is given.
"""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.digits.server import connected
from examples.rectangles import SIDE, rectangles
from lossclient import Client
from losswire.frame import Parts

BATCH, STRIDE, RATIOS = 8, 8, [0.5, 1.0, 2.0]
SIZES = [[SIDE // STRIDE, SIDE // STRIDE]]

#: As many as COCO has, to pay what a detector pays; only two of them occur.
CLASSES = 80
GAMMA, ALPHA = 2.0, 0.25

#: As an MMDetection config has it.
HEAD = dict(
    type="RetinaHead",
    num_classes=CLASSES,
    anchor_generator=dict(type="AnchorGenerator", strides=[STRIDE], scales=[2.0], ratios=RATIOS),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=GAMMA, alpha=ALPHA, loss_weight=1.0),
    loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        allowed_border=-1,
        pos_weight=-1,
    ),
)


class Metered(Client):
    """A client that counts the bytes of its last call's messages."""

    sent = received = 0

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """As of every client."""
        reply = super().send(parts, timeout)
        self.sent, self.received = parts.size, reply.size
        return reply


class Detector(nn.Module):
    """Three convolutions and two heads, one level."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU())
            for a, b in ((1, 16), (16, 32), (32, 32))
        ]
        self.trunk = nn.Sequential(*(part for layer in layers for part in layer))
        self.scores = nn.Conv2d(32, len(RATIOS) * CLASSES, 3, padding=1)
        self.boxes = nn.Conv2d(32, len(RATIOS) * 4, 3, padding=1)
        # Each anchor starts at a probability of 0.01: most are background.
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(self.scores.bias, -4.6)

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        """The maps of images [B, 1, S, S], as the head takes them."""
        features = self.trunk(images)
        return {"cls_scores": [self.scores(features)], "bbox_preds": [self.boxes(features)]}


def dense_loss(pred: dict[str, list[Tensor]], told: dict[str, Any]) -> Tensor:
    """Focal loss of all anchors that count, and L1 of those with an object, by avg_factor."""
    total = torch.zeros(())
    for level, (scores, boxes) in enumerate(zip(*pred.values(), strict=True)):
        labels, weights, deltas, inside = (
            torch.from_numpy(told[name][level])
            for name in ("labels", "label_weights", "bbox_targets", "bbox_weights")
        )
        # Background, the last class, is the row of zeros.
        classes = F.one_hot(labels, CLASSES + 1)[..., :-1].float()
        total += (_focal(_rows(scores), classes).sum(-1) * weights).sum()
        total += ((_rows(boxes) - deltas).abs() * inside).sum()
    return total / told["avg_factor"]


def train(client: Metered, steps: int) -> None:
    """Train on new rectangles each step, one `assign` a step, and print losses and bytes."""
    torch.set_num_threads(1)  # the server has the other core
    torch.manual_seed(0)
    rng, model = np.random.default_rng(0), Detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        images, target = rectangles(BATCH, rng)
        pred = model(torch.from_numpy(images))
        told = client.assign(HEAD, target, featmap_sizes=SIZES)
        loss = dense_loss(pred, told)
        if step == 0:
            _compare(client, pred, target, loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:3}  loss {loss.item():.4f}")


def _compare(client: Metered, pred: dict[str, list[Tensor]], target: Any, loss: float) -> None:
    """Print what the last call, an assignment, cost, and what the whole head would."""
    up, down = client.sent, client.received
    maps = {name: [level.detach() for level in levels] for name, levels in pred.items()}
    whole = client.compute(HEAD, maps, target).loss
    print(f"assign     {up:9,} bytes up, {down:9,} down; loss {loss:.5f}, computed here")
    print(f"whole head {client.sent:9,} bytes up, {client.received:9,} down; loss {whole:.5f}")
    print(f"           {client.sent / up:9.0f} times,    {client.received / down:9.1f} times")


def _rows(level: Tensor) -> Tensor:
    """A map [B, A · C, H, W] as rows [B, H · W · A, C], the order of anchors."""
    return level.unflatten(1, (len(RATIOS), -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _focal(logits: Tensor, classes: Tensor) -> Tensor:
    """FL(p_t) = -α_t (1 - p_t)^γ log p_t; Lin et al., 2017, arXiv:1708.02002, eq. 5."""
    entropy = F.binary_cross_entropy_with_logits(logits, classes, reduction="none")
    alpha_t = ALPHA * classes + (1 - ALPHA) * (1 - classes)
    return alpha_t * (1 - (-entropy).exp()) ** GAMMA * entropy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", help="HOST:PORT of a server")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    with connected(arguments.target) as connection:
        train(Metered(connection.planes), arguments.steps)
