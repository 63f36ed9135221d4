"""torch's loss of sequences."""

import itertools
import math

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, whole

STEPS, CLASSES = 4, 3


def sequences(rows: int) -> Inputs:
    """Log-probabilities [4, N, 3], and up to two of the labels 1 and 2; blank is 0."""
    return {
        "pred": normal(rows, STEPS, CLASSES).log_softmax(2).transpose(0, 1).contiguous(),
        "target": whole(rows, 2, low=1, high=2),
        "input_lengths": whole(rows, low=3, high=STEPS),
        "target_lengths": whole(rows, high=2, seed=1),
    }


def collapsed(path: tuple[int, ...]) -> list[int]:
    """The labels of a path, without repetitions and then without blanks."""
    return [c for c, _ in itertools.groupby(path) if c]


def by_all_paths(
    pred: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor
) -> Tensor:
    """-log of the sum over every path that gives the target, one by one."""
    found = []
    for row, labels in enumerate(target.tolist()):
        steps = pred[: input_lengths[row], row].tolist()
        wanted = labels[: target_lengths[row]]
        likelihood = sum(
            math.exp(sum(step[c] for step, c in zip(steps, path, strict=True)))
            for path in itertools.product(range(CLASSES), repeat=len(steps))
            if collapsed(path) == wanted
        )
        found.append(-math.log(likelihood))
    return torch.tensor(found, dtype=torch.float64)


CASES = [
    Case(
        {"type": "torch.CTCLoss"},
        sequences,
        by_all_paths,
        # torch's gradient is the derivative only once it went through a log_softmax;
        # tests/losses/test_torch_nn.py lets it.
        wrt=(),
        reduces_otherwise="by the length of each target",
    ),
]
