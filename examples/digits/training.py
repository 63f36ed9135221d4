"""A training loop that does not know where its losses are computed.

Chosen so that rounding differences stay rounding differences: plain SGD, whose
step is linear in the gradient, and a learning rate that starts and ends near 0.
With Adam, or with a rate at the edge of what converges, two runs that differ in
the last bit of one gradient are far apart after a hundred steps.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from examples.digits.canvases import Canvases
from examples.digits.detector import Detector
from examples.digits.losses import Losses

#: Canvases to learn from.
CANVASES = 2000

STEPS = 400

#: Canvases in a step.
BATCH = 16

LEARNING_RATE = 0.08
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4

#: Steps between two looks at the weights.
WATCHED_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, finished.

    Attributes:
        model: what was trained.
        losses: float32 [steps, 2]: of the scores, of the boxes.
        weights: float32 [steps / WATCHED_EVERY, W], all weights after those steps.
        seconds: float64 [steps, 2]: of each step, and of these in the forward of the losses.
    """

    model: Detector
    losses: Tensor
    weights: Tensor
    seconds: Tensor


def train(losses: Losses, canvases: Canvases, *, seed: int, name: str, steps: int = STEPS) -> Run:
    """A detector trained on the canvases. The same seed and losses give the same weights.

    Parameters:
        losses: remote or local.
        canvases: what to learn from.
        seed: of the first weights and of the order of the canvases.
        name: what the progress bar says.
        steps: batches to learn from.
    """
    torch.manual_seed(seed)
    model = Detector()
    optimizer, schedule = _optimizer(model, steps)
    seen, watched, times = [], [], []
    with tqdm(_batches(len(canvases), steps), name, steps, unit="step") as bar:
        for step, batch in enumerate(bar, 1):
            started = time.perf_counter()
            maps = model(canvases.images[batch])
            ready = time.perf_counter()
            parts = losses(maps, batch)
            in_losses = time.perf_counter() - ready
            optimizer.zero_grad()
            parts.sum().backward()
            optimizer.step()
            schedule.step()
            times.append((time.perf_counter() - started, in_losses))
            seen.append(parts.detach())
            if step % WATCHED_EVERY == 0:
                watched.append(nn.utils.parameters_to_vector(model.parameters()).detach())
                bar.set_postfix_str("loss {:.3f} scores, {:.3f} boxes".format(*parts.tolist()))
    return Run(
        model=model,
        losses=torch.stack(seen),
        weights=torch.stack(watched),
        seconds=torch.tensor(times, dtype=torch.float64),
    )


def _optimizer(model: Detector, steps: int) -> tuple[SGD, OneCycleLR]:
    optimizer = SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    return optimizer, OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )


def _batches(count: int, steps: int) -> Iterator[Tensor]:
    """Indices [BATCH] of canvases for each step, in a new order each time round."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(count)
        yield order[:BATCH]
        order = order[BATCH:]
