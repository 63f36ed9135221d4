"""What is computed: inputs drawn once, and the answer of local torch, in a folder that all can read.

No torch here: the processes that send calls import this module.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: The largest difference to local torch, relative to the largest entry of its gradient. Another
#: order of sums gives some 1e-6.
TOLERANCE = 1e-4


class WrongError(AssertionError):
    """A peer's answer is not that of local torch."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call.

    Attributes:
        formula: its name in benchmarks/local.py.
        config: what a server is asked for.
        shape: of pred.
    """

    formula: str
    config: dict[str, Any]
    shape: tuple[int, int]

    def drawn(self) -> tuple[Array, Array]:
        """Logits and class indices."""
        rng = np.random.default_rng(0)
        pred = rng.standard_normal(self.shape, np.float32)
        return pred, rng.integers(self.shape[1], size=self.shape[0])


CASES = {
    "large": Case(formula="cross_entropy", config={"type": "CrossEntropyLoss"}, shape=(4096, 8192)),
    "middle": Case(formula="focal", config={"type": "FocalLoss"}, shape=(8192, 80)),
    "small": Case(formula="focal", config={"type": "FocalLoss"}, shape=(64, 80)),
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A case whose inputs and answer are in a folder."""

    case: Case
    pred: Array
    target: Array
    loss: float
    grad: Array

    def check(self, loss: float, grad: Array) -> None:
        """Raise WrongError if that is not the answer."""
        error = float(np.abs(grad - self.grad).max() / np.abs(self.grad).max())
        if not (error < TOLERANCE and abs(loss - self.loss) < TOLERANCE * abs(self.loss)):
            raise WrongError(
                f"must be as local torch computes it: loss {self.loss}, and a gradient within "
                f"{TOLERANCE}; given {loss}, and a difference of {error}"
            )


def write(folder: str, name: str, loss: float, grad: Array) -> None:
    """Leave the answer of a case for the peers."""
    pred, target = CASES[name].drawn()
    parts: dict[str, Array] = {"pred": pred, "target": target, "grad": grad}
    for part, array in (parts | {"loss": np.array(loss)}).items():
        np.save(Path(folder) / f"{name}.{part}.npy", array)


def read(folder: str, name: str) -> Written:
    """What was left, in memory of our own."""
    pred, target, grad, loss = (
        np.load(Path(folder) / f"{name}.{part}.npy") for part in ("pred", "target", "grad", "loss")
    )
    return Written(case=CASES[name], pred=pred, target=target, grad=grad, loss=float(loss))
