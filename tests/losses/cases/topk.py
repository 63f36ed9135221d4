"""Divergences from a teacher's top tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.losses.case import Case, Inputs, normal
from tests.losses.cases.divergence import MASKED, kl, softmax


def top(name: str, *shape: int) -> Callable[[int], Inputs]:
    """A student's logits [N, ..., 6], and what a teacher of as many sends of its top 3."""

    def inputs(rows: int) -> Inputs:
        teacher = 2 * normal(rows, *shape, 6, seed=1)
        found = teacher.log_softmax(-1) if name == "logprobs" else teacher
        values, indices = found.topk(3, -1)
        return {"pred": 2 * normal(rows, *shape, 6), "target": {"indices": indices, name: values}}

    return inputs


def padded(rows: int) -> Inputs:
    """Logits of two tokens a row, of which not all count."""
    mask = [[1, 0], [1, 1], [0, 1], [1, 0], [1, 1], [0, 1]]
    return top("logprobs", 2)(rows) | {"mask": torch.tensor(mask[:rows]).reshape(rows, 2)}


def given_the_top(temperature: float) -> Callable[..., float]:
    """The divergence given that it is one of the three."""

    def token(pred: list[float], indices: list[int], given: list[float]) -> float:
        student = softmax([pred[i] for i in indices], temperature)
        return temperature**2 * kl(softmax(given, temperature), student)

    return token


def with_rest(pred: list[float], indices: list[int], logprobs: list[float]) -> float:
    """The divergence of four: the three, and any other."""
    p = torch.tensor(logprobs, dtype=torch.float64).exp().tolist()
    student = softmax(pred)
    q = [student[i] for i in indices]
    others = [x for i, x in enumerate(student) if i not in indices]
    return kl([*p, 1 - sum(p)], [*q, sum(others)])


def by_token(formula: Callable[..., float]) -> Callable[..., Tensor]:
    """A formula of one token, over all."""

    def reference(pred: Tensor, target: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
        sent = (pred, target["indices"], target.get("logits", target.get("logprobs")))
        rows = zip(*(one.flatten(0, -2).tolist() for one in sent), strict=True)
        values = [formula(*row) for row in rows]
        found = torch.tensor(values, dtype=pred.dtype).reshape(pred.shape[:-1])
        return found if mask is None else found * mask

    return reference


BOTH = ("pred", "target")
REST = {"type": "TopKKLLoss", "tail": "rest"}

CASES = [
    Case({"type": "TopKKLLoss"}, top("logits"), by_token(given_the_top(1)), BOTH),
    Case(
        {"type": "TopKKLLoss", "temperature": 2},
        top("logprobs", 2),
        by_token(given_the_top(2)),
        BOTH,
    ),
    Case(REST, top("logprobs"), by_token(with_rest), BOTH),
    Case(REST, top("logprobs", 2), by_token(with_rest), BOTH),
    *(
        Case(config, padded, by_token(token), BOTH, reduces_otherwise=MASKED)
        for config, token in (({"type": "TopKKLLoss"}, given_the_top(1)), (REST, with_rest))
    ),
]
