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


def labelled(labels: Tensor, like: Tensor) -> Tensor:
    """bool [N, C] of `like` [N, C]: true at each row's label, nowhere where that is not in 0..C-1.

    By comparison, since torch's own one_hot reads the labels back to check them,
    which on CUDA waits for the device; and since what is compared goes into a
    fused kernel, where what is scattered does not.
    """
    if not labels.numel():
        # And no arange of a number of classes that cost no byte.
        return like.new_zeros(like.shape, dtype=torch.bool)
    # As int32 they are compared eight at a time, beside eight floats.
    count = like.shape[1]
    classes = torch.arange(count, dtype=torch.int32, device=labels.device)
    return labels.clamp(-1, count).int().unsqueeze(1) == classes


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """[N, C] of `like` [N, C]'s dtype: 1 at each row's label, a row of 0 where that is not in 0..C-1."""
    return labelled(labels, like).to(like.dtype)


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


def probability_entropy(p: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p), element by element, no log below -100.

    torch asserts that both are in [0, 1], on CUDA inside the kernel, where a
    failure kills the context; a NaN fails it. So a NaN goes around it.
    """
    entropy = F.binary_cross_entropy(
        p.nan_to_num(nan=0.5), target.nan_to_num(nan=0.5), reduction="none"
    )
    either = p + target
    return torch.where(either.isnan(), either, entropy)


def refuse_no_probability(given: Tensor, field: str) -> None:
    """Refuse numbers out of [0, 1], naming the first; NaN passes."""
    outside = given[(given < 0) | (given > 1)]
    if len(outside):
        raise RefusedError(
            field, "probabilities (activated=True) must be in [0, 1]", float(outside[0])
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


def check_indices(given: Tensor, lowest: int, highest: int, field: str) -> None:
    """Refuse indices, an input other than the target, that are no integers in lowest..highest."""
    if given.is_floating_point() or given.dtype is torch.bool:
        raise RefusedError(field, "indices must be of an integer type", name_of(given.dtype))
    indices = given.long()
    outside = indices[(indices < lowest) | (indices > highest)]
    if len(outside):
        raise RefusedError(field, f"an index must be in {lowest}..{highest}", int(outside[0]))
