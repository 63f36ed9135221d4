"""Train a digit detector with a RetinaHead on a server, and again with one written here.

    python -m examples.digits            # or: make demo

A remote step is one call: the maps and the boxes go up, the losses and the gradient
of every map come down. The two trainings differ in nothing but where assignment and
losses are computed, so both must give every anchor the same digit, and their weights
must agree within float32 rounding (`agreement` says how much that is). Exits with 1
if they do not, with 2 if the server fails. Writes demo.png.

Trainer and server get a thread each: they take turns, two cores are all the
demo asks for, and the sums of a convolution then add up in the same order on
every machine.
"""

import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import lossclient
from examples.digits.agreement import bound, difference
from examples.digits.anchors import GRIDS, all_anchors
from examples.digits.assignment import Targets, assign
from examples.digits.canvases import Canvases, load_scans, scatter
from examples.digits.evaluate import SURE, detect, quality
from examples.digits.losses import HEAD, local_losses, remote_losses, truth
from examples.digits.picture import draw
from examples.digits.server import ServerError, running_server
from examples.digits.training import CANVASES, Run, train

SEED = 0
HELD_OUT_CANVASES = 300
PICTURE = Path("demo.png")


def main() -> int:
    """Run the demo; the exit status."""
    started = time.perf_counter()
    # An exit and not a sudden end, so that the server is stopped too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)

    canvases, held_out = _make_canvases()
    try:
        with running_server() as server, lossclient.connect(server.target) as client:
            _say("server", f"process {server.pid} on {server.target}, device {server.device}")
            told = _ask_for_targets(client, held_out)
            remote = train(remote_losses(client, canvases), canvases, seed=SEED, name="remote")
    except ServerError as error:
        print(error, file=sys.stderr)
        return 2
    local = train(local_losses(canvases), canvases, seed=SEED, name="local ")

    _say_speed(remote, local)
    agreed = _say_targets(told, assign(held_out)) & _say_difference(remote, local)
    _say_quality(remote, local, held_out)
    draw(PICTURE, remote, local, told, held_out)
    _say("picture", str(PICTURE))
    _say("time", f"{time.perf_counter() - started:.0f} s")
    return 0 if agreed else 1


def _make_canvases() -> tuple[Canvases, Canvases]:
    scans, unseen = load_scans()
    _say("digits", f"{len(scans.labels):,} scans to train on, {len(unseen.labels)} others held out")
    canvases = scatter(scans, CANVASES, SEED)
    held_out = scatter(unseen, HELD_OUT_CANVASES, SEED)
    _say(
        "canvases", f"{len(canvases):,} of the former, {len(held_out)} of the latter, 64x64 pixels"
    )
    return canvases, held_out


def _ask_for_targets(client: lossclient.Client, canvases: Canvases) -> Targets:
    """The targets of the canvases, by the server: boxes up, no prediction."""
    every = truth(canvases, torch.arange(len(canvases)))
    told = client.assign(HEAD, every, featmap_sizes=[[grid, grid] for grid in GRIDS])
    labels, weights, deltas = (
        torch.from_numpy(np.concatenate(told[name], 1))
        for name in ("labels", "label_weights", "bbox_targets")
    )
    return Targets(labels=labels, counted=weights > 0, deltas=deltas)


def _say_targets(told: Targets, own: Targets) -> bool:
    """Whether server and local assignment give every anchor the same."""
    other = int(((told.labels != own.labels) | (told.counted != own.counted)).sum())
    _say(
        "anchors",
        f"{len(all_anchors())} a canvas; {other} of {own.labels.numel():,} that the server assigned "
        "are for something else locally",
    )
    return other == 0


def _say_speed(remote: Run, local: Run) -> None:
    for name, run in (("remote", remote), ("local", local)):
        steps = run.seconds[:, 0]
        median = float(steps.median())
        _say(
            name,
            f"{len(steps)} steps in {steps.sum():.1f} s; median {median * 1e3:.1f} ms "
            f"({1 / median:.1f} steps/s), p99 {steps.quantile(0.99) * 1e3:.1f} ms",
        )
    step, calls = remote.seconds.median(0).values.tolist()
    _say(
        "calls",
        f"{calls / step:.0%} of a remote step: median {calls * 1e3:.1f} ms for its one call",
    )


def _say_difference(remote: Run, local: Run) -> bool:
    """Whether the weights agree."""
    steps, weights = len(local.losses), local.weights[-1]
    apart, allowed = float(difference(remote.weights, local.weights)[-1]), bound(weights, steps)
    agreed = apart <= allowed
    _say(
        "weights",
        f"{len(weights):,}, of up to {weights.abs().max():.2f}; those of remote and local differ by "
        f"{apart:.1e} at most",
    )
    _say(
        "bound",
        f"{allowed:.1e}, √{steps} ulps of the largest weight: "
        + ("they agree" if agreed else "THEY DO NOT AGREE"),
    )
    return agreed


def _say_quality(remote: Run, local: Run, held_out: Canvases) -> None:
    for name, run in (("remote", remote), ("local", local)):
        got = quality(detect(run.model, held_out.images), held_out)
        _say(
            "quality",
            f"{name}: AP50 {got.ap50:.3f}; at scores from {SURE}: "
            f"precision {got.precision:.3f}, recall {got.recall:.3f}",
        )


def _say(what: str, text: str) -> None:
    print(f"{what:10}{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
