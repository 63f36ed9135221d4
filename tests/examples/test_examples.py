"""The detectors of examples/, run as a user does: a few steps each, and the loss falls."""

import re
import subprocess
import sys
from statistics import mean

import pytest

STEPS = 25
LOSS = re.compile(r"^step +\d+  loss (\S+)", re.MULTILINE)


def run(example: str, steps: int = STEPS) -> str:
    """What the example prints."""
    command = [sys.executable, f"examples/{example}.py", "--steps", str(steps)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def assigned() -> str:
    """What assign_only prints."""
    return run("assign_only")


def assert_falls(printed: str) -> None:
    """Each step shows other images, so that only means of a few say something."""
    losses = [float(loss) for loss in LOSS.findall(printed)]

    assert len(losses) == STEPS
    assert mean(losses[-5:]) < 0.8 * mean(losses[:5])


def test_a_jax_detector_learns_from_a_remote_head():
    """result.grad, put into jax.vjp, trains a JAX model."""
    assert_falls(run("jax_detector"))


def test_a_detector_that_keeps_its_logits_learns(assigned):
    """Targets from client.assign are all that a local loss needs."""
    assert_falls(assigned)


def test_a_local_loss_over_assigned_targets_is_the_heads(assigned):
    """Assignment alone sends far fewer bytes than the head, and the loss is the same."""
    found = re.findall(r"([\d,]+) bytes up, +([\d,]+) down; loss ([\d.]+)", assigned)
    (up, down, local), (whole_up, whole_down, remote) = (
        [float(number.replace(",", "")) for number in line] for line in found
    )

    assert abs(local - remote) < 2e-5
    assert 100 * up < whole_up
    assert down < whole_down
