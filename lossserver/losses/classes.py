"""Class indices, and the binary cross entropy: what the losses over classes share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lossserver.losses.loss import name_of
from lossserver.registry import RefusedError


def labels_of(target: Tensor) -> Tensor:
    """Class indices as int64. Raises RefusedError if they are not of an integer type."""
    if target.is_floating_point() or target.dtype is torch.bool:
        raise RefusedError(
            "target", "class indices must be of an integer type", name_of(target.dtype)
        )
    return target.long()


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """[N, C] of `like` [N, C]'s dtype: 1 at each row's label, a row of 0 where that is not in 0..C-1.

    By comparison, since torch's own one_hot reads the labels back to check them,
    which on CUDA waits for the device.
    """
    if not labels.numel():
        return like.new_zeros(like.shape)  # and no arange of a number of classes that cost no byte
    classes = torch.arange(like.shape[1], device=labels.device)
    return (labels.unsqueeze(1) == classes).to(like.dtype)


def sigmoid_entropy(logits: Tensor, target: Tensor, positive: Tensor | None = None) -> Tensor:
    """-w t log σ(x) - (1 - t) log(1 - σ(x)), element by element; `positive` is w, or 1.

    torch's own binary_cross_entropy_with_logits is the same, but its CPU kernel
    wakes all threads for any size, and they go on spinning: ten times the cost
    for a small job, and the other core lost to everybody else. Beyond 40, log(1 +
    e^x) is x to the last bit of a float64, and e^40 fits a float32.
    """
    wanted = target if positive is None else target * positive
    # Each half apart, so that neither the value nor the slope of a sure answer cancels to nothing.
    return wanted * F.softplus(-logits, threshold=40) + (1 - target) * F.softplus(
        logits, threshold=40
    )


def refuse_outside(labels: Tensor, lowest: int, highest: int, allowed: str) -> None:
    """Refuse labels out of lowest..highest, naming the worst."""
    if not labels.numel():
        return
    # On the CPU already, unless a job is computed alone on another device. NumPy's min and max,
    # unlike torch's, hold on to the interpreter's lock.
    values = labels.cpu().numpy()
    least, most = int(values.min()), int(values.max())
    if least < lowest or most > highest:
        given = least if least < lowest else most
        raise RefusedError("target", f"a class index must be {allowed}", given)
