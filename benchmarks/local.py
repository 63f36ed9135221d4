"""What a trainer computes at home: losses as tutorials and papers' code have them, eager, mean over all.

None of the project's code is in here: this is what it is compared with.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]


def focal(pred: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss of logits [N, C] and class indices [N], where C is background."""
    one_hot = F.one_hot(target, pred.shape[1] + 1)[:, :-1].to(pred.dtype)
    entropy = F.binary_cross_entropy_with_logits(pred, one_hot, reduction="none")
    p = pred.sigmoid()
    p_t = p * one_hot + (1 - p) * (1 - one_hot)
    alpha_t = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    return (alpha_t * (1 - p_t) ** gamma * entropy).mean()


def cross_entropy(pred: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of logits [N, C] and class indices [N]; torch's own."""
    return F.cross_entropy(pred, target)


def giou(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised IoU loss of boxes [N, 4], x1, y1, x2, y2."""
    area = (pred[:, 2] - pred[:, 0]) * (pred[:, 3] - pred[:, 1])
    wanted = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1])
    inner = torch.min(pred[:, 2:], target[:, 2:]) - torch.max(pred[:, :2], target[:, :2])
    inner = inner.clamp(min=0)
    overlap = inner[:, 0] * inner[:, 1]
    union = (area + wanted - overlap).clamp(min=eps)
    outer = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])
    outer = outer.clamp(min=0)
    around = (outer[:, 0] * outer[:, 1]).clamp(min=eps)
    return (1 - (overlap / union - (around - union) / around)).mean()


def step(loss: Formula, pred: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """The loss and the gradient of pred."""
    leaf = pred.detach().requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert leaf.grad is not None  # noqa: S101  (backward has just set it)
    return value.item(), leaf.grad
