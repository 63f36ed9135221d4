"""A mixture of two normal distributions over numbers, fitted by expectation maximisation.

Source: scikit-learn's `GaussianMixture`, whose steps, order and constants these are,
for two components in one dimension, begun at the least and the largest number.
"""

import math

import torch
from torch import Tensor

#: Added to a variance, the gain of likelihood at which it ends, and the steps it takes at most.
LEAST_VARIANCE, TOLERANCE, STEPS = 1e-6, 1e-3, 100


@torch.no_grad()
def lower_component(values: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the values [N], N ≥ 2, belong to the component that began at the least, bool [N].

    And the log density of each under the mixture.
    """
    weights = values.new_full((2,), 0.5)
    means = torch.stack([values.min(), values.max()])
    variances = values.new_ones(2)
    before = -math.inf
    for _ in range(STEPS):
        joint = _joint(values, weights, means, variances)
        density = joint.logsumexp(1)
        share = (joint - density.unsqueeze(1)).exp()
        count = share.sum(0) + 10 * torch.finfo(values.dtype).eps
        means = share.T @ values / count
        spread = share.T @ values.square() / count - means.square()
        variances = (spread + LEAST_VARIANCE).clamp(min=LEAST_VARIANCE)
        weights = count / count.sum()
        likelihood = float(density.mean())
        if abs(likelihood - before) < TOLERANCE:
            break
        before = likelihood
    joint = _joint(values, weights, means, variances)
    return joint[:, 0] >= joint[:, 1], joint.logsumexp(1)


def _joint(values: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """The log density [N, 2] of each value and component together."""
    distance = (values.unsqueeze(1) - means).square() / variances
    return weights.log() - 0.5 * (math.log(2 * math.pi) + variances.log() + distance)
