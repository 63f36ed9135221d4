"""Losses that keep two views alike and their features apart: no negatives, no pairs of rows."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import MAX_PAIRS, Call, Loss, floating, require, tensor_of
from lossserver.losses.vectors import fit_pairs
from lossserver.registry import LOSSES

#: Columns whose matrix of D × D is as large as one may be.
MAX_COLUMNS = math.isqrt(MAX_PAIRS)

#: What keeps the standard deviation from 0: torch's BatchNorm1d has the first, VICReg the second.
BATCH_NORM_EPS = 1e-5
VARIANCE_EPS = 1e-4


class Decorrelation(Loss):
    """A loss of statistics of two views [N, D], which needs at least two rows for them."""

    def check(self, call: Call) -> None:
        pred, target = floating(tensor_of(call, "pred"), "pred"), tensor_of(call, "target")
        rows = fit_pairs(pred, target)
        require(rows > 1, "pred", "must have at least 2 rows, to have a variance", rows)
        columns = pred.shape[1]
        fits = 0 < columns <= MAX_COLUMNS
        require(fits, "pred", f"must have 1 to {MAX_COLUMNS} columns", columns)


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class BarlowTwinsLoss(Decorrelation):
    """Barlow Twins: the cross-correlation matrix of two views should be the identity.

    L = Σ_i (1 - C_ii)² + λ Σ_{i ≠ j} C_ij²                                (eq. 1)
    C = X̂ᵀ Ŷ / N                                                          (eq. 2)

    where each column of X̂ and Ŷ has mean 0 and variance 1 over the rows.

    Parameters:
        lambd: λ ≥ 0, the weight of the redundancy.

    Inputs:
        pred: first view X, float [N, D].
        target: second view Y, float [N, D].

    Returns:
        One float. Columns are divided by √(var + 1e-5), var that of N and not
        of N - 1, as the authors' batch norm does; a constant column is 0.

    Raises:
        ValueError: lambd < 0, target not shaped like pred, fewer than 2 rows, or over
            8,192 columns.

    Source:
        Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy
        Reduction, 2021, arXiv:2103.03230, eq. 1 and 2; λ is that of the
        authors' code.
    """

    lambd: float = 0.0051

    def __post_init__(self) -> None:
        require(self.lambd >= 0, "lambd", "must be at least 0", self.lambd)

    def outputs(self, call: Call) -> dict[str, Tensor]:
        x, y = standardised(tensor_of(call, "pred")), standardised(tensor_of(call, "target"))
        c = x.T @ y / len(x)
        return {"loss": (1 - c.diagonal()).square().sum() + self.lambd * off_diagonal(c)}


@LOSSES.register
@dataclass(frozen=True, kw_only=True)
class VICRegLoss(Decorrelation):
    """VICReg: two views agree, every feature varies, and no two features say the same.

    invariance = λ Σ_{i, d} (X_id - Y_id)² / (N D)                         (eq. 5)
    variance   = μ (v(X) + v(Y)) / 2,  v(Z) = Σ_d max(0, 1 - √(var(Z_d) + 1e-4)) / D   (eq. 1, 2)
    covariance = ν (c(X) + c(Y)),  c(Z) = Σ_{d ≠ e} cov(Z)_de² / D          (eq. 3, 4)

    Parameters:
        sim_coeff: λ ≥ 0, the weight of the invariance.
        std_coeff: μ ≥ 0, the weight of the variance.
        cov_coeff: ν ≥ 0, the weight of the covariance.

    Inputs:
        pred: first view X, float [N, D].
        target: second view Y, float [N, D].

    Returns:
        Three floats, `invariance`, `variance` and `covariance`, weighted
        already: their sum is the loss, and its gradient is the default one.
        As the authors' code has it, the invariance is divided by D too and the
        variance by 2, which the paper's equations are not.

    Raises:
        ValueError: a coefficient < 0, target not shaped like pred, fewer than 2 rows, or
            over 8,192 columns.

    Source:
        Bardes et al., VICReg: Variance-Invariance-Covariance Regularization
        for Self-Supervised Learning, 2022, arXiv:2105.04906, eq. 1 to 6.
    """

    OUTPUTS: ClassVar[frozenset[str]] = frozenset({"invariance", "variance", "covariance"})

    sim_coeff: float = 25.0
    std_coeff: float = 25.0
    cov_coeff: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sim_coeff", "std_coeff", "cov_coeff"):
            require(getattr(self, name) >= 0, name, "must be at least 0", getattr(self, name))

    def outputs(self, call: Call) -> dict[str, Tensor]:
        x, y = tensor_of(call, "pred"), tensor_of(call, "target")
        return {
            "invariance": self.sim_coeff * (x - y).square().mean(),
            "variance": self.std_coeff * (narrowness(x) + narrowness(y)) / 2,
            "covariance": self.cov_coeff * (redundancy(x) + redundancy(y)),
        }


def standardised(z: Tensor) -> Tensor:
    """Each column with mean 0 and variance 1."""
    centred = z - z.mean(0)
    return centred / (centred.square().mean(0) + BATCH_NORM_EPS).sqrt()


def narrowness(z: Tensor) -> Tensor:
    """v(Z): how far the columns' standard deviations fall short of 1, on average."""
    return F.relu(1 - (z.var(0) + VARIANCE_EPS).sqrt()).mean()


def redundancy(z: Tensor) -> Tensor:
    """c(Z): the squared covariances of two different columns, summed, over D."""
    centred = z - z.mean(0)
    return off_diagonal(centred.T @ centred / (len(z) - 1)) / z.shape[1]


def off_diagonal(matrix: Tensor) -> Tensor:
    """The sum of the squares off the diagonal."""
    itself = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(itself, 0).square().sum()
