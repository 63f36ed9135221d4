"""torch's losses from distributions."""

import math

from tests.losses.case import Case, Inputs, by_row, each, normal, uniform, whole


def counts(rows: int) -> Inputs:
    """Logs of rates, counts."""
    return {"pred": normal(rows, 3), "target": whole(rows, 3, high=4)}


def rates(rows: int) -> Inputs:
    """Rates, counts."""
    return {"pred": 0.2 + 3 * uniform(rows, 3), "target": whole(rows, 3, high=4)}


def stirling(t: float) -> float:
    """log t!, near enough, where t is above 1."""
    return t * math.log(t) - t + math.log(2 * math.pi * t) / 2 if t > 1 else 0


def gaussian(rows: int) -> Inputs:
    """Means, values and variances."""
    return {
        "pred": normal(rows, 4),
        "target": normal(rows, 4, seed=1),
        "var": 0.3 + uniform(rows, 4, seed=2),
    }


def one_variance(rows: int) -> Inputs:
    """Means and values, and a variance a row."""
    return gaussian(rows) | {"var": 0.3 + uniform(rows, seed=2)}


def spread(pred: list[float], target: list[float], var: float | list[float]) -> list[float]:
    """The logarithm of the density of a normal distribution, but for its constant."""
    variances = var if isinstance(var, list) else [var] * len(pred)
    return [
        -math.log(math.exp(-((p - t) ** 2) / (2 * v)) / math.sqrt(v))
        for p, t, v in zip(pred, target, variances, strict=True)
    ]


def density(**row: list[float]) -> list[float]:
    """The same with its constant."""
    return [value + math.log(2 * math.pi) / 2 for value in spread(**row)]


def distributions(rows: int) -> Inputs:
    """Log-probabilities and probabilities of 4 classes."""
    return {
        "pred": normal(rows, 4).log_softmax(1),
        "target": normal(rows, 4, seed=1).softmax(1),
    }


def logs(rows: int) -> Inputs:
    """Log-probabilities of 4 classes, twice."""
    inputs = distributions(rows)
    return inputs | {"target": inputs["target"].log()}


divergence = each(lambda p, t: t * math.log(t / math.exp(p)))

CASES = [
    Case({"type": "torch.PoissonNLLLoss"}, counts, each(lambda p, t: math.exp(p) - t * p)),
    Case(
        {"type": "torch.PoissonNLLLoss", "full": True},
        counts,
        each(lambda p, t: math.exp(p) - t * p + stirling(t)),
    ),
    Case(
        {"type": "torch.PoissonNLLLoss", "log_input": False, "eps": 0.1},
        rates,
        each(lambda p, t: p - t * math.log(p + 0.1)),
    ),
    Case(
        {"type": "torch.GaussianNLLLoss"}, gaussian, by_row(spread), wrt=("pred", "target", "var")
    ),
    Case(
        {"type": "torch.GaussianNLLLoss", "full": True},
        one_variance,
        by_row(density),
        wrt=("pred", "var"),
    ),
    Case({"type": "torch.KLDivLoss"}, distributions, divergence, wrt=("pred", "target")),
    Case(
        {"type": "torch.KLDivLoss", "log_target": True},
        logs,
        each(lambda p, t: math.exp(t) * (t - p)),
        wrt=("pred", "target"),
    ),
    Case({"type": "torch.KLDivLoss", "reduction": "batchmean"}, distributions, divergence),
]
