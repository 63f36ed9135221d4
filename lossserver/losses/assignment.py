"""Pairs of least total cost, each row and each column in one pair at most."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

#: Costs that are to be summed must be below this.
MOST = 1e150


@torch.no_grad()
def assignment(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pairs, in the rows' order, of costs [R, C] on the CPU.

    A cost that is not finite is taken as more than all others together.
    """
    rows, columns = linear_sum_assignment(_finite(costs.double()).numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _finite(costs: Tensor) -> Tensor:
    # Not by a number large enough for all times: next to it the others would be rounded to nothing,
    # and they have to be compared yet.
    known = costs.abs() < MOST
    if known.all():
        return costs
    largest = torch.where(known, costs.abs(), 1.0).max()
    return torch.where(known, costs, 2 * largest.clamp(min=1) * (min(costs.shape) + 1))
