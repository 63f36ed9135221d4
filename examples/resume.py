"""A loss that remembers survives the end of its trainer and of its server: python examples/resume.py.

Trains with SeesawLoss, whose factors depend on how often each class was seen. Once
in one go; and once with the trainer killed in the middle, the server replaced by a
new one, and the training resumed from its checkpoint. The server keeps nothing: the
counts are buffers of the RemoteLoss, so `state_dict()` has them. Both runs end with the
same weights, or this exits with 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import lossclient
from examples.digits.server import running_server
from lossclient.torch import RemoteLoss

CLASSES, FEATURES, STEPS, EVERY = 10, 16, 30, 5


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [64, 16] and labels of a step; class k comes half as often as class k - 1."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.multinomial(0.5 ** torch.arange(CLASSES + 1.0), 64, True, generator=generator)
    centers = torch.randn(CLASSES + 1, FEATURES, generator=torch.Generator().manual_seed(99))
    return centers[labels] + torch.randn(64, FEATURES, generator=generator), labels


def train(target: str, checkpoint: Path) -> None:
    """Train from the checkpoint, if there is one, and save one every few steps."""
    torch.manual_seed(0)
    model = torch.nn.Linear(FEATURES, CLASSES + 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with lossclient.connect(target) as client:
        criterion = RemoteLoss({"type": "SeesawLoss", "num_classes": CLASSES}, client)
        parts = {"model": model, "optimizer": optimizer, "criterion": criterion}
        start = 0
        if checkpoint.exists():
            saved = torch.load(checkpoint)
            start = saved.pop("step")
            for name, state in saved.items():
                parts[name].load_state_dict(state)
        for step in range(start, STEPS):
            features, labels = batch(step)
            loss = sum(criterion(model(features), labels).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % EVERY == 0:
                save({k: part.state_dict() for k, part in parts.items()}, step + 1, checkpoint)
            print(f"step {step + 1:2}  loss {loss.item():.4f}", flush=True)


def save(states: dict[str, dict], step: int, checkpoint: Path) -> None:
    """Write a checkpoint so that there is a whole one at any time."""
    torch.save({**states, "step": step}, checkpoint.with_suffix(".new"))
    checkpoint.with_suffix(".new").replace(checkpoint)


def trainer(target: str, checkpoint: Path, kill_after: int = STEPS) -> None:
    """Train in a process of its own, which is killed after so many steps."""
    command = [sys.executable, "-m", "examples.resume", "--train", target, str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        for line in process.stdout or ():
            print("   ", line, end="")
            if int(line.split()[1]) == kill_after < STEPS:
                process.kill()
    if kill_after == STEPS and process.returncode:
        raise SystemExit("the trainer failed")


def main() -> int:
    """Both runs; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole.pt"), Path(folder, "broken.pt")
        with running_server() as server:
            print("in one go")
            trainer(server.target, whole)
            print(f"with the trainer killed after step {STEPS // 2 + 2}")
            trainer(server.target, broken, kill_after=STEPS // 2 + 2)
        with running_server() as server:
            print("and resumed, with a new server")
            trainer(server.target, broken)
        ends = [torch.load(path) for path in (whole, broken)]
    weights = [end["model"]["weight"] for end in ends]
    seen = [end["criterion"]["cum_samples"] for end in ends]
    apart = float((weights[0] - weights[1]).abs().max())
    print(f"rows seen {int(seen[0].sum())} and {int(seen[1].sum())}; weights differ by {apart:g}")
    return int(apart > 0 or not torch.equal(*seen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", nargs=2, metavar=("TARGET", "CHECKPOINT"))
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.train[0], Path(arguments.train[1]))
    else:
        sys.exit(main())
