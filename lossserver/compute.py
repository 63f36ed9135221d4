"""Formula and gradient of one batch: jobs in, results out, in the same order.

Rows of all jobs are concatenated, the formula runs once, and one
vector-Jacobian product with everybody's cotangent gives everybody's gradient:
row i of the gradient reads row i of the cotangent and nothing else. In company
a value differs from a lone run by rounding only, about one ulp.

float16 and bfloat16 are computed in float32. A gradient is rounded once, to its
input's dtype, and so is an unreduced loss. A reduced loss stays float32: as a
half it could not even hold the scale that loss scaling multiplies it with.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossserver.job import Computed, Job
from lossserver.losses.cotangent import Cotangent
from lossserver.losses.rows import Rows, RowwiseLoss
from lossserver.registry import RefusedError
from lossserver.tree import map_tensors, precision, tensors, zip_tensors


def compute(batch: Sequence[Job], device: torch.device) -> list[Computed]:
    """Compute a batch of jobs of one key.

    Raises:
        RefusedError: a lone job whose outputs do not fit its upstream gradient.
    """
    if batch[0].rows is None:
        return [_alone(job, device) for job in batch]
    return _together(batch, device)


def _together(batch: Sequence[Job], device: torch.device) -> list[Computed]:
    jobs = [job.rows for job in batch if job.rows is not None]
    formula, call = jobs[0].formula, batch[0].call
    sizes = [len(job.leaves[0]) for job in jobs]
    dtype = precision(call.inputs)
    inputs = _joined(jobs, device, dtype)
    names = sorted(call.wrt & inputs.keys())
    leaves = _leaves(inputs, names)
    with torch.set_grad_enabled(bool(leaves)):
        rows = formula.formula(**inputs)
    parts = _split(rows.detach(), sizes)
    ends = [_placed(job.cotangent, device, dtype) for job in jobs]
    losses = _to_host([end.value(part) for end, part in zip(ends, parts, strict=True)])
    cotangent = _cat([end.of(part) for end, part in zip(ends, parts, strict=True)])
    grads = _grads([rows], leaves, [cotangent])
    if any(end.may_be_zero for end in ends):
        grads = _silenced(grads, formula, cotangent)
    split = [[None] * len(jobs) if g is None else _split(g.cpu(), sizes) for g in grads]
    own = [
        _by_name(inputs, job.inputs, names, leaves, [column[i] for column in split])
        for i, job in enumerate(jobs)
    ]
    if "weight" in call.wrt:
        for grad, end, part, job in zip(own, ends, parts, jobs, strict=True):
            grad["weight"] = _of_weight(end, part, job)
    return [
        Computed(losses={"loss": _rounded(loss, job.call.inputs)}, grads=grad)
        for loss, job, grad in zip(losses, batch, own, strict=True)
    ]


def _joined(jobs: list[Rows], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The inputs of all jobs, their rows one after another."""
    columns = zip(*(job.leaves for job in jobs), strict=True)
    joined = iter([_join(column, device, dtype) for column in columns])
    return {
        name: map_tensors(lambda _: next(joined), tree) for name, tree in jobs[0].inputs.items()
    }


def _leaves(inputs: Mapping[str, Any], names: list[str]) -> list[Tensor]:
    """The floating-point tensors of the inputs of those names, from now on tracked by autograd."""
    return [
        leaf.requires_grad_()
        for name in names
        for leaf in tensors(inputs[name])
        if leaf.is_floating_point()
    ]


def _by_name(
    inputs: Mapping[str, Any],
    sent: Mapping[str, Any],
    names: list[str],
    leaves: list[Tensor],
    grads: Sequence[Tensor | None],
) -> dict[str, Any]:
    """For each of the names a tree of gradients, on the CPU and in the dtype of what was sent."""
    found = dict(zip(map(id, leaves), grads, strict=True))

    def grad_of(leaf: Tensor, own: Tensor) -> Tensor | None:
        grad = found.get(id(leaf))
        return None if grad is None else grad.to("cpu", own.dtype)

    return {name: zip_tensors(grad_of, inputs[name], sent[name]) for name in names}


def _of_weight(end: Cotangent, rows: Tensor, job: Rows) -> Tensor:
    """The gradient of the weight, shaped as it was sent."""
    assert job.weight is not None  # noqa: S101  (decode refuses a wrt that was not sent)
    return end.of_weight(rows).reshape(job.weight.shape).to("cpu", job.weight.dtype)


def _to_host(losses: list[Tensor]) -> Sequence[Tensor]:
    """The losses on the CPU; those of a batch of scalars in one transfer."""
    if len(losses) == 1 or any(loss.dim() for loss in losses):
        return [loss.cpu() for loss in losses]
    return torch.stack(losses).cpu().unbind()


def _silenced(
    grads: list[Tensor | None], formula: RowwiseLoss, cotangent: Tensor
) -> list[Tensor | None]:
    """0 where no cotangent reaches: there 0 times an infinite or NaN slope gave NaN."""
    zero = cotangent == 0
    return [
        None if grad is None else grad.masked_fill(formula.reach(zero, grad), 0) for grad in grads
    ]


def _alone(job: Job, device: torch.device) -> Computed:
    call = job.call
    place = functools.partial(_placed_tensor, device=device, dtype=precision(call.inputs))
    inputs = {name: map_tensors(place, value) for name, value in call.inputs.items()}
    names = sorted(call.wrt)
    leaves = _leaves(inputs, names)
    state = map_tensors(lambda one: one.to(device), call.state)
    grad_output = {name: map_tensors(place, tree) for name, tree in call.grad_output.items()}
    with torch.set_grad_enabled(bool(leaves)):
        outputs, state = job.loss.step(
            replace(call, inputs=inputs, grad_output=grad_output, state=state)
        )
    upstream = [one for name, out in outputs.items() for one in _upstream(name, out, grad_output)]
    grads = _grads(list(tensors(outputs)), leaves, upstream)
    return Computed(
        losses={
            name: map_tensors(lambda one: one.detach().cpu(), out)
            if name in job.loss.metrics
            else map_tensors(lambda one: _rounded(one.detach(), call.inputs), out)
            for name, out in outputs.items()
        },
        grads=_by_name(inputs, call.inputs, names, leaves, grads),
        state=map_tensors(lambda one: one.detach().cpu(), state),
        metrics=job.loss.metrics & outputs.keys(),
    )


def _upstream(name: str, out: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """The upstream gradient of each tensor of an output."""
    outs = list(tensors(out))
    if name not in given:
        return [torch.ones_like(one) for one in outs]
    found = list(tensors(given[name]))
    shapes = [list(one.shape) for one in outs]
    if [list(one.shape) for one in found] != shapes:
        raise RefusedError(
            "grad_output",
            f"must be shaped like the loss, {shapes[0] if isinstance(out, Tensor) else shapes}",
            [list(one.shape) for one in found],
        )
    return found


def _grads(
    outputs: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]
) -> list[Tensor | None]:
    if not leaves:
        return []
    reached = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    if not reached:
        return [None] * len(leaves)
    found, upstream = zip(*reached, strict=True)
    return list(torch.autograd.grad(found, leaves, upstream, allow_unused=True))


def _rounded(loss: Tensor, given: Mapping[str, Any]) -> Tensor:
    """The loss on the CPU; an unreduced one in the widest dtype of the given floats."""
    if not loss.dim() or not loss.is_floating_point():
        return loss.cpu()
    dtypes = [tensor.dtype for tensor in tensors(given) if tensor.is_floating_point()]
    return loss.to("cpu", functools.reduce(torch.promote_types, dtypes or [loss.dtype]))


def _placed_tensor(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor on the device; a floating one in the given precision. Never the very tensor."""
    placed = tensor.to(device, dtype if tensor.is_floating_point() else None)
    return placed.detach()


def _placed(end: Cotangent, device: torch.device, dtype: torch.dtype) -> Cotangent:
    if end.weight is None and end.upstream is None:
        return end
    weight, upstream = (
        None if part is None else part.to(device, dtype) for part in (end.weight, end.upstream)
    )
    return replace(end, weight=weight, upstream=upstream)


def _join(parts: Sequence[Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    return _placed_tensor(_cat(parts), device, dtype)


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _split(whole: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return (whole,) if len(sizes) == 1 else whole.split(sizes)
