"""The wire hidden behind the model: python -m examples.overlap [HOST:PORT] [--steps N].

A step is four microbatches. First each waits for its loss; then `pipelined` sends one while the
next goes through the model. The gradients are the same to the bit, the step is shorter. Starts a
server of its own if no other is given, and behaves as if it were --away seconds off: beside it on
one machine there is little to hide, for both need the same cores.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from examples.digits.server import connected
from lossclient import Client
from lossclient.microbatch import pipelined
from lossclient.torch import RemoteLoss
from losswire.frame import Parts

MICROBATCHES, ROWS, WIDTH, CLASSES = 4, 128, 512, 1000

Batches = list[tuple[Tensor, dict[str, Any]]]


class Far(Client):
    """A client whose server is some way off."""

    away = 0.0

    def send(self, parts: Parts, timeout: float | None) -> Parts:
        """As of every client, after a while."""
        time.sleep(self.away)
        return super().send(parts, timeout)


def plain(criterion: nn.Module, model: nn.Module, batches: Batches) -> None:
    """What one writes without it."""
    for features, call in batches:
        criterion(model(features), **call).backward()


def step_of(
    way: Callable[..., object], criterion: nn.Module, model: nn.Module, batches: Batches
) -> tuple[float, list[Tensor]]:
    """Seconds of a step, and its gradients."""
    model.zero_grad()
    started = time.perf_counter()
    way(criterion, model, batches)
    seconds = time.perf_counter() - started
    return seconds, [one.grad.clone() for one in model.parameters() if one.grad is not None]


def compare(client: Client, steps: int) -> None:
    """Take steps by turns, one with and one without, and print how long they were."""
    torch.set_num_threads(1)  # the server has the other core
    torch.manual_seed(0)
    layers = [part for _ in range(8) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    criterion = RemoteLoss(dict(type="CrossEntropyLoss"), client)
    seconds: dict[str, list[float]] = {"plain": [], "pipelined": []}
    for _ in range(steps):
        batches: Batches = [
            (torch.randn(ROWS, WIDTH), {"target": torch.randint(CLASSES, (ROWS,))})
            for _ in range(MICROBATCHES)
        ]
        one, expected = step_of(plain, criterion, model, batches)
        other, found = step_of(pipelined, criterion, model, batches)
        if not all(map(torch.equal, expected, found)):
            raise SystemExit("both ways must give the same gradients")
        seconds["plain"].append(one)
        seconds["pipelined"].append(other)
    for name, taken in seconds.items():
        print(f"{name:10} {median(taken) * 1e3:7.1f} ms a step of {MICROBATCHES} microbatches")
    print(f"{median(seconds['plain']) / median(seconds['pipelined']):.2f} times as fast")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", help="HOST:PORT of a server")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--away", type=float, default=0.02, help="seconds to the server and back")
    arguments = parser.parse_args()
    Far.away = arguments.away
    with connected(arguments.target) as connection:
        compare(Far(connection.planes), arguments.steps)
