"""A JAX detector with MMDetection's head: python -m examples.jax_detector [HOST:PORT] [--steps N].

Model and optimizer are JAX's, assignment and losses are a RetinaHead's on the server, and this
process has neither torch nor mmcv nor mmdet. `jax.vjp` gives the maps and the way back; the reply's
gradient has their shape and goes in there. Starts a server of its own if no other is given.
"""

import argparse
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.digits.server import connected
from examples.rectangles import SHADES, rectangles
from lossclient import Client

BATCH = 8

#: Channels of the convolutions, each of which halves the image, and anchors of a place.
WIDTHS = (16, 32, 32)
ANCHORS = 3

OPTIMIZER = optax.adam(3e-3)

#: As an MMDetection config has it.
HEAD = dict(
    type="RetinaHead",
    num_classes=len(SHADES),
    anchor_generator=dict(
        type="AnchorGenerator", strides=[8], scales=[2.0], ratios=[0.5, 1.0, 2.0]
    ),
    bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
    loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        allowed_border=-1,
        pos_weight=-1,
    ),
)


def initial(rng: np.random.Generator) -> dict[str, Any]:
    """First weights, float32: kernels [out, in, 3, 3] and biases [out, 1, 1]."""

    def layer(inputs: int, outputs: int, spread: float, bias: float) -> dict[str, jax.Array]:
        kernel = rng.normal(0, spread, (outputs, inputs, 3, 3))
        return {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.full((outputs, 1, 1), bias, jnp.float32),
        }

    widths = (1, *WIDTHS)
    return {
        "trunk": [layer(a, b, (2 / (9 * a)) ** 0.5, 0.0) for a, b in pairwise(widths)],
        # Each anchor starts at a probability of 0.01: most are background.
        "scores": layer(widths[-1], ANCHORS * len(SHADES), 0.01, -4.6),
        "boxes": layer(widths[-1], ANCHORS * 4, 0.01, 0.0),
    }


def predict(params: dict[str, Any], images: jax.Array) -> dict[str, list[jax.Array]]:
    """The maps of images [B, 1, S, S], one level: [B, A · C, S / 8, S / 8] and [B, A · 4, ...]."""
    features = images
    for layer in params["trunk"]:
        features = jax.nn.silu(_convolve(features, layer, stride=2))
    return {
        "cls_scores": [_convolve(features, params["scores"], stride=1)],
        "bbox_preds": [_convolve(features, params["boxes"], stride=1)],
    }


@jax.jit
def forward(params: dict[str, Any], images: jax.Array) -> tuple[Any, Any]:
    """The maps, and the function of their gradient that gives that of the weights."""
    return jax.vjp(lambda own: predict(own, images), params)


@jax.jit
def update(params: Any, state: Any, backward: Any, grad: Any) -> tuple[Any, Any]:
    """The weights and the optimizer's state after a step."""
    (grads,) = backward(grad)
    updates, state = OPTIMIZER.update(grads, state)
    return optax.apply_updates(params, updates), state


def train(client: Client, steps: int) -> None:
    """Train on new rectangles each step, one call a step, and print the losses."""
    rng = np.random.default_rng(0)
    params = initial(rng)
    state = OPTIMIZER.init(params)
    for step in range(steps):
        images, target = rectangles(BATCH, rng)
        pred, backward = forward(params, images)
        result = client.compute(HEAD, pred, target)
        params, state = update(params, state, backward, result.grad)
        (scores,), (boxes,) = result.losses["loss_cls"], result.losses["loss_bbox"]
        print(f"step {step:3}  loss {result.loss:.4f}  scores {scores:.4f}  boxes {boxes:.4f}")


def _convolve(inputs: jax.Array, layer: dict[str, jax.Array], *, stride: int) -> jax.Array:
    return jax.lax.conv(inputs, layer["kernel"], (stride, stride), "SAME") + layer["bias"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", help="HOST:PORT of a server")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    with connected(arguments.target) as connection:
        train(connection, arguments.steps)
