"""A training that loses no step while its servers are killed: python -m examples.chaos.

Two servers, one of which is always up. Every few seconds one is killed with SIGKILL, wherever it
is, and started again on its port; then it is the other's turn. The losses remember (SeesawLoss
counts classes, GHMC has a running histogram), so that a step lost or counted twice would show.
Then the same number of steps with nobody killed: both runs end with the same weights and with the
same memories, or this exits with 1.
"""

import argparse
import logging
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

import lossclient
from lossclient.torch import RemoteLoss

CLASSES, BOXES, FEATURES, ROWS = 10, 512, 16, 64

#: Relative; of float32.
ROUNDING = 1e-6

# A forked server has imported everything: it is up in a moment, and can be killed every two seconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lossserver.commands", "lossserver.server", "lossclient.torch"])


def serve(port: int) -> None:
    """A server on this port, in a process of its own, which says nothing."""
    from lossserver.commands import run  # noqa: PLC0415  (the trainer needs none of it)

    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    run(["serve", f"--port={port}", "--device=cpu", "--threads=1", "--compile=off"])


class Server:
    """A server that can be killed, and comes back on the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._port = listening.getsockname()[1]
        self.target = f"127.0.0.1:{self._port}"
        self._process: Any = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = FORKS.Process(target=serve, args=(self._port,), daemon=True)
        self._process.start()
        with lossclient.connect(self.target) as client:
            client.server(timeout=60)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


@dataclass
class Run:
    """What a training left.

    Attributes:
        tensors: weights, and what the losses remember, by name.
        steps: how many.
        longest: seconds that the longest step took.
        repeated: calls that were sent again.
        kills: servers killed meanwhile.
    """

    tensors: dict[str, torch.Tensor]
    steps: int = 0
    longest: float = 0.0
    repeated: int = 0
    kills: list[float] = field(default_factory=list)


def batch(step: int) -> tuple[torch.Tensor, ...]:
    """Features, labels and hits of a step."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.multinomial(0.5 ** torch.arange(CLASSES + 1.0), ROWS, True, generator=generator)
    features = torch.randn(ROWS, FEATURES, generator=generator)
    hits = (torch.rand(ROWS, BOXES, generator=generator) < 0.1).float()
    return features, labels, hits


def train(targets: list[str], *, steps: int | None = None, seconds: float = 0.0) -> Run:
    """Train for so many steps, or else seconds."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(FEATURES, CLASSES + 2 + BOXES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with lossclient.connect(targets) as client:
        classes = RemoteLoss({"type": "SeesawLoss", "num_classes": CLASSES}, client)
        boxes = RemoteLoss({"type": "GHMC", "bins": 10, "momentum": 0.75}, client)
        run, began = Run({}), time.monotonic()
        while run.steps != steps if steps else time.monotonic() - began < seconds:
            features, labels, hits = batch(run.steps)
            started = time.monotonic()
            scores = model(features)
            loss = sum(classes(scores[:, : CLASSES + 2], labels).values())
            loss = loss + boxes(scores[:, CLASSES + 2 :], hits, torch.ones_like(hits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.steps += 1
            run.longest = max(run.longest, time.monotonic() - started)
        run.repeated = client.transport.tally["repeated"]
    for name, module in {"model": model, "seesaw": classes, "ghm": boxes}.items():
        run.tensors |= {f"{name}.{key}": kept for key, kept in module.state_dict().items()}
    return run


@contextmanager
def chaos(servers: list[Server], every: float) -> Iterator[list[float]]:
    """Kills the servers in turn, each when the other is up; gives when, in seconds."""
    over, kills = threading.Event(), []

    def run() -> None:
        started = time.monotonic()
        while not over.wait(max(0.0, started + every * (len(kills) + 1) - time.monotonic())):
            server = servers[len(kills) % len(servers)]
            kills.append(time.monotonic() - started)
            server.kill()
            server.start()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


def difference(one: Run, other: Run) -> float:
    """The largest, relative to the largest value of a tensor."""
    if one.tensors.keys() != other.tensors.keys():
        return float("inf")
    return max(
        float((kept - other.tensors[name]).abs().max() / kept.abs().max().clamp(min=1e-12))
        for name, kept in one.tensors.items()
    )


def main() -> int:
    """Both runs; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training under fire")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from kill to kill")
    arguments = parser.parse_args()
    logging.getLogger("lossclient").setLevel(logging.ERROR)  # what it warns of is meant to happen
    servers = [Server(), Server()]
    targets = [server.target for server in servers]
    try:
        for server in servers:
            server.start()
        with chaos(servers, arguments.every) as kills:
            stormy = train(targets, seconds=arguments.seconds)
        stormy.kills = kills
        calm = train(targets, steps=stormy.steps)
    finally:
        for server in servers:
            server.kill()
    apart = difference(stormy, calm)
    print(f"{'':10} {'steps':>7} {'kills':>7} {'retries':>8} {'longest step':>13}")
    for name, run in (("disturbed", stormy), ("calm", calm)):
        print(f"{name:10} {run.steps:7} {len(run.kills):7} {run.repeated:8} {run.longest:11.3f} s")
    seen = [int(run.tensors["seesaw.cum_samples"].sum()) for run in (stormy, calm)]
    print(f"rows seen {seen[0]} and {seen[1]}, of {stormy.steps * ROWS} sent once")
    print(f"weights and memories differ by {apart:.1e} of the largest")
    return int(apart > ROUNDING or set(seen) != {stormy.steps * ROWS})


if __name__ == "__main__":
    sys.exit(main())
