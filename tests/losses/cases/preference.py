"""Losses of preferences, an answer at a time, from the papers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal, sigmoid, whole


def pairs(rows: int) -> Inputs:
    """Log-probabilities of two answers to each prompt, under a policy and a reference."""
    pred = {"chosen": -9 + 3 * normal(rows), "rejected": -9 + 3 * normal(rows, seed=1)}
    near = {k: x + 2 * normal(rows, seed=i) for i, (k, x) in enumerate(pred.items(), start=2)}
    return {"pred": pred, "ref_logp": near}


def judged(rows: int) -> Inputs:
    """Log-probabilities of answers, which of them are good, and a reference point."""
    pred = -9 + 3 * normal(rows)
    return {
        "pred": pred,
        "target": whole(rows, high=1),
        "ref_logp": pred + 2 * normal(rows, seed=1),
        "kl": normal(rows, seed=2),
    }


def alone(rows: int) -> Inputs:
    """Two answers without a reference."""
    return {"pred": pairs(rows)["pred"]}


def each_pair(formula: Callable[[float], float]) -> Callable[..., Tensor]:
    """A formula of the margin of the margins."""

    def reference(pred: dict[str, Tensor], ref_logp: dict[str, Tensor] | None = None) -> Tensor:
        values = []
        for i in range(len(pred["chosen"])):
            odds = math.exp(pred["chosen"][i]) / math.exp(pred["rejected"][i])
            if ref_logp is not None:
                odds *= math.exp(ref_logp["rejected"][i]) / math.exp(ref_logp["chosen"][i])
            values.append(formula(math.log(odds)))
        return torch.tensor(values, dtype=torch.float64)

    return reference


def dpo(beta: float, wrong: float = 0.0) -> Callable[[float], float]:
    """Eq. 7 of arXiv:2305.18290, a share of the labels taken as wrong."""
    return lambda h: (
        -(1 - wrong) * math.log(sigmoid(beta * h)) - wrong * math.log(sigmoid(-beta * h))
    )


def kto(beta: float, desirable: float, undesirable: float) -> Callable[..., Tensor]:
    """λ - v of arXiv:2402.01306."""

    def row(pred: float, target: int, ref_logp: float, kl: float) -> float:
        gain, point = pred - ref_logp, max(0.0, kl)
        if target:
            return desirable - desirable * sigmoid(beta * (gain - point))
        return undesirable - undesirable * sigmoid(beta * (point - gain))

    def reference(**inputs: Tensor) -> Tensor:
        rows = zip(*(one.tolist() for one in inputs.values()), strict=True)
        values = [row(**dict(zip(inputs, one, strict=True))) for one in rows]
        return torch.tensor(values, dtype=torch.float64)

    return reference


CASES = [
    Case({"type": "DPOLoss"}, pairs, each_pair(dpo(0.1)), wrt=("pred", "ref_logp")),
    Case({"type": "DPOLoss", "beta": 0.5, "label_smoothing": 0.2}, pairs, each_pair(dpo(0.5, 0.2))),
    Case({"type": "DPOLoss", "reference_free": True}, alone, each_pair(dpo(0.1))),
    Case({"type": "IPOLoss", "beta": 0.4}, pairs, each_pair(lambda h: (h - 1 / 0.8) ** 2)),
    Case(
        {"type": "KTOLoss", "desirable_weight": 1.3, "undesirable_weight": 0.7},
        judged,
        kto(0.1, 1.3, 0.7),
        wrt=("pred", "ref_logp", "kl"),
    ),
]
