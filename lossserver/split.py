"""What became of a batch of rows: everybody's part of it.

    Found       on the device, whole: one tensor of everybody's losses, one a column of gradients
    split_up    on the host: a Computed a job

All that is the same for all jobs is done once a batch: some thousand calls a
second of 64 rows pay for nothing else than this and the copies.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossserver.company import Company
from lossserver.job import Computed
from lossserver.losses.cotangent import Cotangent
from lossserver.losses.rows import Rows
from lossserver.tree import tensors
from lossserver.wishes import common


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What became of a batch.

    Attributes:
        losses: those that are one number, in one tensor; then each of the others.
        grads: a column for each tensor whose gradient is wanted; None where no gradient reaches.
        of_weights: the gradient of each caller's weight, if those are wanted.
        fused: a fused kernel computed it.
    """

    losses: Sequence[Tensor]
    grads: Sequence[Tensor | None]
    of_weights: Sequence[Tensor] = ()
    fused: bool = False

    @property
    def reached(self) -> list[bool]:
        """Which of the columns there are."""
        return [grad is not None for grad in self.grads]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which `split_up` takes them."""
        there = [grad for grad in self.grads if grad is not None]
        return [*self.losses, *there, *self.of_weights]


def found(
    own: Company,
    ends: Sequence[Cotangent],
    parts: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    *,
    fused: bool = False,
) -> Found:
    """What became of a batch of which everybody's ℓ are `parts`."""
    reduced: list[Tensor] = []
    others: list[Tensor] = []
    for end, part, job in zip(ends, parts, own.jobs, strict=True):
        loss = end.value(part)
        if end.reduced:
            reduced.append(loss)
        else:
            others.append(rounded(loss, job.call.inputs))
    of_weights: list[Tensor] = []
    if "weight" in own.jobs[0].call.wrt:
        of_weights = [_of_weight(*one) for one in zip(ends, parts, own.rows, strict=True)]
    return Found(
        losses=[*stacked(reduced), *others],
        grads=as_sent(own, grads),
        of_weights=of_weights,
        fused=fused,
    )


def stacked(numbers: Sequence[Tensor]) -> list[Tensor]:
    """The numbers in one tensor, so that they travel together; none if there are none."""
    if len(numbers) < 2:
        return [one.view(1) for one in numbers]
    return [torch.stack([*numbers])]


def as_sent(own: Company, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients in the dtypes of their inputs, or shorter ones where all callers wish that."""
    pairs = zip(grads, own.wanted, strict=True)
    dtype_of = common(job.wishes for job in own.jobs).early
    return [None if grad is None else grad.to(dtype_of(leaf.dtype)) for grad, leaf in pairs]


def split_up(
    own: Company, reached: Sequence[bool], fused: bool, host: Sequence[Tensor]
) -> list[Computed]:
    """Everybody's part of what was found, in the order of `Found.tensors`, on the host."""
    rest = iter(host)
    losses = _losses(own, rest)
    columns = [split(next(rest), own.sizes) if there else None for there in reached]
    places = own.places
    # Most calls want the gradients of plain tensors only.
    plain = all(place is None or isinstance(place, int) for place in places.values())
    part_of = _part if plain else _tree
    results: list[Computed] = []
    for i, loss in enumerate(losses):
        grads = {name: part_of(place, columns, i) for name, place in places.items()}
        if "weight" in own.jobs[0].call.wrt:
            grads["weight"] = next(rest)
        results.append(Computed(losses={"loss": loss}, grads=grads, fused=fused))
    return results


def _losses(own: Company, rest: Any) -> list[Tensor]:
    """Everybody's losses: one number, so many of them as there are calls, or ℓ."""
    if not any(end.reduced for end in own.ends):
        return [next(rest) for _ in own.ends]
    many = [job.many for job, end in zip(own.jobs, own.ends, strict=True) if end.reduced]
    numbers = next(rest)
    parts = numbers.unbind() if max(many) == 1 else map(_one_or_many, numbers.split(many))
    reduced = iter(parts)
    return [next(reduced if end.reduced else rest) for end in own.ends]


def _one_or_many(numbers: Tensor) -> Tensor:
    return numbers if len(numbers) > 1 else numbers[0]


def _part(place: int | None, columns: Sequence[Sequence[Tensor] | None], i: int) -> Any:
    own = None if place is None else columns[place]
    return None if own is None else own[i]


def _tree(place: Any, columns: Sequence[Sequence[Tensor] | None], i: int) -> Any:
    if isinstance(place, Mapping):
        return {key: _tree(one, columns, i) for key, one in place.items()}
    if isinstance(place, list):
        return [_tree(one, columns, i) for one in place]
    return _part(place, columns, i)


def rounded(loss: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The loss; an unreduced one in the widest dtype of the given floats."""
    if not loss.dim() or not loss.is_floating_point():
        return loss
    dtypes = [tensor.dtype for tensor in tensors(given) if tensor.is_floating_point()]
    return loss.to(functools.reduce(torch.promote_types, dtypes or [loss.dtype]))


def split(whole: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    """Everybody's rows."""
    return (whole,) if len(sizes) == 1 else whole.split(sizes)


def _of_weight(end: Cotangent, part: Tensor, one: Rows) -> Tensor:
    """The gradient of the weight, shaped as it was sent."""
    assert one.weight is not None  # noqa: S101  (decode refuses a wrt that was not sent)
    return end.of_weight(part).reshape(one.weight.shape).to(one.weight.dtype)
