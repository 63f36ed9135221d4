"""One batch of rows: concatenated, computed once, split.

The formula runs once over everybody's rows, and one vector-Jacobian product with
everybody's cotangent gives everybody's gradient: row i of the gradient reads row
i of the cotangent and nothing else. In company a value differs from a lone run
by rounding only, about one ulp.

A fused kernel (compile.py) does all of it in one pass where there is one; eager
torch does where there is none yet.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from lossserver.company import Company, column, company, divisors, lengths, scales, weights
from lossserver.faults import is_full
from lossserver.fuse import Fused, silenced, tracked
from lossserver.job import Job
from lossserver.kernel import Kernel, Recipe
from lossserver.losses.cotangent import Cotangent
from lossserver.slab import joined
from lossserver.split import Found, as_sent, found, split, split_up
from lossserver.staging import Pending, Staging
from lossserver.tree import map_tensors

#: Rows of a batch that a kernel is made and checked with.
EXAMPLE = 64

#: Elements of such an example's largest tensor, unless two rows have more.
LARGEST = 1 << 18


class Kernels(Protocol):
    """Where kernels are found."""

    def find(self, key: Hashable, recipe: Callable[[], Recipe], tenant: str) -> Kernel | None:
        """The kernel of that key; None while there is none, and the tenant may have ordered one."""

    def drop(self, key: Hashable, error: Exception) -> None:
        """Use the kernel of that key no more: it raised."""


def together(jobs: Sequence[Job], staging: Staging, kernels: Kernels | None = None) -> Pending:
    """Have jobs of one key computed, all of them with rows."""
    own = company(jobs)
    answer = _by_kernel(own, staging, kernels) if kernels is not None else None
    answer = answer or _eager(own, staging)
    return Pending(
        landing=staging.bring_out(answer.tensors),
        computed=functools.partial(split_up, own, answer.reached, answer.fused),
    )


def order(jobs: Sequence[Job], device: torch.device) -> tuple[Hashable, Recipe]:
    """The key of the kernel that would compute the batch, and what it is made of."""
    own = company(jobs)
    return own.key(device), _recipe(own, device)


def _recipe(own: Company, device: torch.device) -> Recipe:
    """What the batch's kernel is made of, with its first rows as the example."""
    nothing = torch.empty(0)
    first = own.rows[0]
    return Recipe(
        fused=Fused(
            formula=first.formula,
            inputs={n: map_tensors(lambda _: nothing, tree) for n, tree in first.inputs.items()},
            names=own.names,
            form=own.form,
        ),
        example=_example(own),
        device=str(device),
    )


def _example(own: Company) -> list[Tensor]:
    """The first rows, beside scales of 1, and weights or a cotangent of 1, but 0 in the first row."""
    first = own.rows[0]
    widest = max(1, *(leaf.shape[1:].numel() for leaf in first.leaves))
    count = min(EXAMPLE, max(2, LARGEST // widest), sum(own.sizes))
    shape = (count, *first.shape[1:])
    one = torch.ones(column(shape), dtype=own.dtype)
    end = torch.ones(column(shape) if own.weighs == 1 else shape, dtype=own.dtype)
    end[0] = 0
    beside = [end] if own.form == "rows" else [one, end] if own.weighs else [one]
    return [*(placed(_first(count, parts), own.dtype) for parts in own.columns), *beside]


def _first(count: int, parts: Sequence[Tensor]) -> Tensor:
    """So many rows of the first callers' parts."""
    taken: list[Tensor] = []
    for part in parts:
        taken.append(part[:count])
        count -= len(taken[-1])
        if not count:
            break
    return torch.cat(taken)


def _by_kernel(own: Company, staging: Staging, kernels: Kernels) -> Found | None:
    """What a kernel makes of it; None if there is none."""
    if sum(own.sizes) < 2:
        return None  # Inductor takes an extent of 0 or 1 for a constant
    key = own.key(staging.device)
    recipe = functools.partial(_recipe, own, staging.device)
    kernel = kernels.find(key, recipe, own.jobs[0].tenant)
    if kernel is None:
        return None
    arguments, answer = (_sums if own.form == "sums" else _rows)(own, staging)
    try:
        values, *grads = kernel(arguments)
    except RuntimeError as error:
        if is_full(error):
            raise  # that is the batch's fault
        # Memory that does not suffice inside a kernel does not say so; eager torch says it.
        instead = _eager(own, staging)
        kernels.drop(key, error)
        return instead
    assert values is not None  # noqa: S101  (only gradients may be absent)
    return answer(values, grads)


#: Makes the answer of a kernel's values and gradients.
_Answer = Callable[[Tensor, Sequence[Tensor | None]], Found]


def _sums(own: Company, staging: Staging) -> tuple[list[Tensor], _Answer]:
    """What a kernel of sums takes, on the device; and what becomes of its answer."""
    count = len(own.rows[0].leaves)
    beside = [[scales(own)]]
    if own.weighs:
        beside.append(weights(own))
    if own.calls > 1:
        beside += [[divisors(own)], [lengths(own)]]
    brought = staging.bring_in([*own.columns, *beside])
    scale, *rest = brought[count:]
    weight = [rest.pop(0).to(own.dtype)] if own.weighs else []

    def answer(sums: Tensor, grads: Sequence[Tensor | None]) -> Found:
        losses = _added_up(sums, *rest) if rest else _total(sums, own.ends[0].scale)
        return Found(losses=[losses.to(own.dtype)], grads=as_sent(own, grads), fused=True)

    return [*_placed(own, brought[:count]), scale, *weight], answer


def _total(sums: Tensor, divisor: float) -> Tensor:
    """The loss of the sums of one caller's rows, added up in double precision."""
    return sums.sum(dtype=torch.float64).view(1) * divisor


def _added_up(sums: Tensor, divisors: Tensor, lengths: Tensor) -> Tensor:
    """Everybody's loss."""
    whole = torch.segment_reduce(sums.double(), "sum", lengths=lengths, unsafe=True, initial=0)
    return whole * divisors


def _rows(own: Company, staging: Staging) -> tuple[list[Tensor], _Answer]:
    """What a kernel of rows takes, on the device; and what becomes of its answer."""
    own = own.singly
    leaves, ends = _apart(own, staging)
    like = torch.empty((), dtype=own.dtype, device=staging.device)
    shapes = [like.expand(one.shape) for one in own.rows]
    cotangent = joined([end.of(one) for end, one in zip(ends, shapes, strict=True)])

    def answer(values: Tensor, grads: Sequence[Tensor | None]) -> Found:
        return found(own, ends, split(values, own.sizes), grads, fused=True)

    return [*leaves, cotangent], answer


def _eager(own: Company, staging: Staging) -> Found:
    own = own.singly
    leaves, ends = _apart(own, staging)
    formula = own.rows[0].formula
    flat = iter(leaves)
    given = own.rows[0].inputs
    inputs = {name: map_tensors(lambda _: next(flat), tree) for name, tree in given.items()}
    wanted = tracked(inputs, own.names)
    with torch.set_grad_enabled(bool(wanted)):
        rows = formula.formula(**inputs)
    grads: Sequence[Tensor | None] = [None] * len(wanted)
    parts = split(rows.detach(), own.sizes)
    cotangent = joined([end.of(part) for end, part in zip(ends, parts, strict=True)])
    if wanted and rows.requires_grad:
        grads = torch.autograd.grad(rows, wanted, cotangent, allow_unused=True)
    if any(end.may_be_zero for end in ends):
        grads = silenced(grads, formula, cotangent)
    return found(own, ends, parts, grads)


def _apart(own: Company, staging: Staging) -> tuple[list[Tensor], list[Cotangent]]:
    """The leaves of the inputs, and everybody's end, on the device."""
    sent = [part for end in own.ends for part in (end.weight, end.upstream) if part is not None]
    if not sent:
        return _placed(own, staging.bring_in(own.columns)), own.ends
    brought = staging.bring_in([*own.columns, *([one] for one in sent)])
    count = len(own.rows[0].leaves)
    rest = iter(brought[count:])

    def end_there(end: Cotangent) -> Cotangent:
        if end.weight is None and end.upstream is None:
            return end
        weight, upstream = (
            None if one is None else next(rest).to(own.dtype) for one in (end.weight, end.upstream)
        )
        return replace(end, weight=weight, upstream=upstream)

    return _placed(own, brought[:count]), [end_there(end) for end in own.ends]


def _placed(own: Company, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The leaves in the precision to compute in; never the very tensors."""
    return [placed(leaf, own.dtype) for leaf in leaves]


def placed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating-point tensor in that precision, any other as it is. Never the very tensor."""
    return tensor.to(dtype).detach() if tensor.is_floating_point() else tensor.detach()
