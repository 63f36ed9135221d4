"""Everything that comes after the formula: weight, reduce, scale. Once, for every loss.

MMDetection's pipeline is

    sample → formula → weight → reduce → scale → the trainer's own upstream gradient

and all of it after the formula is linear in the rows ℓ that the formula gives:

    loss      = Σ ℓ · weight · loss_weight / divisor
    cotangent = dL/dℓ = upstream · weight · loss_weight / divisor

The cotangent needs no ℓ, so one vector-Jacobian product gives the gradients of
many callers with different reductions at once.

Source: MMDetection 3.3.0, `weight_reduce_loss` (mmdet/models/losses/utils.py).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossserver.losses.allowance import with_others
from lossserver.registry import RefusedError

#: What MMDetection adds to avg_factor, whatever the dtype.
EPS = torch.finfo(torch.float32).eps

REDUCTIONS = ("none", "mean", "sum")

#: Elements that broadcasting may blow a loss up to, where upstream lets it. Torch would try any
#: number; this many are 128 MiB of float64.
MAX_BROADCAST = 1 << 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Cotangent:
    """How one call turns its rows into its loss.

    Attributes:
        shape: shape of ℓ · weight, usually that of ℓ.
        weight: broadcasts with ℓ; None is 1.
        scale: loss_weight / divisor.
        reduced: one number is wanted, not ℓ's shape.
        upstream: dL/d(loss), a scalar if reduced, else `shape`; None is 1.
    """

    shape: tuple[int, ...]
    weight: Tensor | None
    scale: float
    reduced: bool
    upstream: Tensor | None

    def value(self, rows: Tensor) -> Tensor:
        """The loss of these rows. Where the weight is 0 it is 0, even if a row is NaN."""
        if self.weight is not None:
            rows = weighted(rows, self.weight)
        return rows.sum() * self.scale if self.reduced else rows * self.scale

    def of(self, rows: Tensor) -> Tensor:
        """dL/dℓ, shaped like `rows`."""
        out = rows.new_ones(()) * self.scale  # which may be infinite; new_full would raise
        for part in (self.upstream, self.weight):
            out = out if part is None else out * part
        out = out.expand(self.shape)
        return out if self.shape == rows.shape else out.sum_to_size(rows.shape)

    def part(self, start: int, stop: int) -> "Cotangent":
        """The cotangent of a range of rows, of as many dimensions as `shape` and at least two rows."""

        def own(given: Tensor | None) -> Tensor | None:
            if given is None or given.dim() < len(self.shape) or given.shape[0] != self.shape[0]:
                return given
            return given[start:stop]

        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            weight=own(self.weight),
            upstream=own(self.upstream),
        )

    @property
    def may_be_zero(self) -> bool:
        """Whether an element of the cotangent may be 0."""
        return self.weight is not None or self.upstream is not None or self.scale == 0

    def of_weight(self, rows: Tensor) -> Tensor:
        """dL/d(weight), shaped like `weight`; 0 where a row is not finite and its weight is 0."""
        assert self.weight is not None  # noqa: S101  (who asks has sent one)
        out = rows * self.scale if self.upstream is None else rows * self.scale * self.upstream
        out = out.expand(self.shape).masked_fill(_left_out(rows, self.weight), 0)
        return out.sum_to_size(self.weight.shape)


def weighted(rows: Tensor, weight: Tensor) -> Tensor:
    """rows · weight, but 0 where the weight is 0 and the row is not finite."""
    return (rows * weight).masked_fill(_left_out(rows, weight), 0)


def _left_out(rows: Tensor, weight: Tensor) -> Tensor:
    # Not wherever the weight is 0: the gradient of a weight of 0 is its row.
    return (weight == 0) & ~rows.isfinite()


def cotangent(
    rows: tuple[int, ...],
    *,
    weight: Tensor | None,
    reduction: str,
    avg_factor: float | None,
    loss_weight: float,
    upstream: Tensor | None,
    divisor: float | None = None,
    eps: float = EPS,
) -> Cotangent:
    """The cotangent of a call whose formula gives rows of this shape.

    A mean divides by avg_factor + eps; without one by `divisor`, exactly;
    without that by the number of elements.

    Raises:
        RefusedError: avg_factor with reduction "sum"; a weight that does not
            broadcast with the rows; an upstream gradient not shaped like the loss.
    """
    shape = rows if weight is None else broadcast("weight", weight, rows, "the loss")
    if avg_factor is not None and reduction not in ("mean", "none"):
        raise RefusedError(
            "avg_factor", 'goes with reduction "mean" or "none" only', f"reduction {reduction!r}"
        )
    reduced = reduction != "none"
    if reduction not in ("mean", "elementwise_mean"):
        divisor = 1.0
    elif avg_factor is not None:
        # Without eps, too, an avg_factor of 0 makes 0 of nothing, and not NaN.
        divisor = avg_factor + eps or EPS
    elif divisor is None:
        divisor = math.prod(shape)
    expected = () if reduced else shape
    if upstream is not None and tuple(upstream.shape) != expected:
        raise RefusedError(
            "grad_output", f"must be shaped like the loss, {list(expected)}", list(upstream.shape)
        )
    return Cotangent(
        shape=shape,
        weight=weight,
        # The mean of nothing is NaN, as in torch.
        scale=loss_weight / divisor if divisor else math.nan,
        reduced=reduced,
        upstream=upstream,
    )


def broadcast(field: str, given: Tensor, shape: tuple[int, ...], of: str) -> tuple[int, ...]:
    """The shape that `given` and `shape` (that of the thing named `of`) broadcast to.

    Raises:
        RefusedError: they do not, or to far more elements than were sent.
    """
    try:
        out = tuple(torch.broadcast_shapes(shape, given.shape))
    except RuntimeError:
        raise RefusedError(
            field, f"must broadcast with {of}, which is {list(shape)}", list(given.shape)
        ) from None
    if out != shape and with_others(math.prod(out), "broadcast elements") > MAX_BROADCAST:
        raise RefusedError(
            field,
            f"must not broadcast to over {MAX_BROADCAST} elements with {of}, which is {list(shape)}",
            list(given.shape),
        )
    return out
