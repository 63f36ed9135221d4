"""Whether a loss of a head's config fits the place that the head has for it, before any call."""

from typing import Any

from torch import Tensor

from lossserver.losses.loss import Call, Loss, check_names, require
from lossserver.registry import RefusedError

#: Classes of a head whose config alone makes tensors of that size; V3Det has 13,204.
MAX_CLASSES = 1 << 16


def check_classes(count: int) -> None:
    """Refuse a number of classes that no head has."""
    require(0 < count <= MAX_CLASSES, "num_classes", f"must be in 1..{MAX_CLASSES}", count)


def rehearse(
    loss: Loss,
    field: str,
    pred: Tensor,
    target: Any,
    weight: Tensor | None = None,
    avg_factor: float | None = 1.0,
) -> None:
    """Refuse a loss that could not be computed of inputs like these.

    Parameters:
        loss: built from the head's config.
        field: where in it.
        pred, target, weight: of the dimensions that a call will have, and of few rows. No weight
            may be 0: where all are, a loss may not look at anything else.
        avg_factor: None of a head that gives its losses none.
    """
    inputs = {"pred": pred, "target": target} | ({} if weight is None else {"weight": weight})
    call = Call(inputs=inputs, avg_factor=avg_factor)
    try:
        check_names(loss, call, type(loss).__name__)
        loss.check(call)
    except RefusedError as refusal:
        path = f"{field}.{refusal.field.removeprefix('config.')}"
        raise RefusedError(path, refusal.rule, refusal.given) from None
