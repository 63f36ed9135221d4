"""A student that learns a teacher's distribution over classes or tokens."""

from typing import Any

import torch
from torch import Tensor

from scripts.losses_page.curves import Inputs, Line, Plot, numbers, settings

TITLE = "Distillation"

TEACHER = numbers([2, 0, -1, -1])


def taught(x: Tensor) -> Inputs:
    """A student whose first logit is x, where the teacher's is 2, and whose others are the same."""
    return {"pred": torch.cat([x.view(1, 1), TEACHER[:, 1:]], 1), "target": TEACHER}


def taught_by_two(x: Tensor) -> Inputs:
    """The same with the log-probabilities of the teacher's first two tokens alone."""
    top = {"indices": torch.tensor([[0, 1]]), "logprobs": TEACHER.log_softmax(1)[:, :2]}
    return taught(x) | {"target": top}


def student(*lines: Line, inputs: Any = taught) -> Plot:
    """One of a student's four logits."""
    return Plot(
        caption="Four tokens: one of the student's logits varies, where the teacher's is 2.",
        axis="the student's logit",
        span=(-6, 8),
        inputs=inputs,
        lines=lines,
    )


PLOTS = {
    "KnowledgeDistillationKLDivLoss": student(*settings("T", 10, 2, 1)),
    "ForwardKLLoss": student(*settings("temperature", 1.0, 2.0, 4.0)),
    "ReverseKLLoss": student(*settings("temperature", 1.0, 2.0, 4.0)),
    "JSDLoss": student(*settings("beta", 0.5, 0.1, 0.9)),
    "TopKKLLoss": student(*settings("tail", "renormalize", "rest"), inputs=taught_by_two),
}
