"""Jobs in, results out, in the same order: the losses and gradients of one batch.

Jobs with rows are computed together (together.py); any other is computed alone,
by autograd through everything.

float16 and bfloat16 are computed in float32. A gradient is rounded once, to its
input's dtype, and so is an unreduced loss. A reduced loss stays float32: as a
half it could not even hold the scale that loss scaling multiplies it with.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossserver.fuse import tracked
from lossserver.job import Computed, Job
from lossserver.losses.loss import Call
from lossserver.registry import RefusedError
from lossserver.split import rounded
from lossserver.staging import Pending, Staging
from lossserver.together import Kernels, placed, together
from lossserver.tree import map_tensors, precision, tensors, zip_tensors


def compute(
    batch: Sequence[Job], device: torch.device, kernels: Kernels | None = None
) -> list[Computed]:
    """Compute a batch of jobs of one key, by a fused kernel where `kernels` has one.

    Raises:
        RefusedError: a lone job whose outputs do not fit its upstream gradient.
    """
    return begin(batch, Staging(device), kernels).finish()


def begin(batch: Sequence[Job], staging: Staging, kernels: Kernels | None = None) -> Pending:
    """Have a batch of jobs of one key computed, without waiting for its device.

    Raises:
        RefusedError: as `compute` does.
    """
    if batch[0].rows is not None:
        return together(batch, staging, kernels)
    found = [_alone(job, staging) for job in batch]
    landing = staging.bring_out([leaf for one in found for leaf in tensors(_trees(one))])
    # Their memory is the device's again as soon as they are on their way.
    nothing = torch.empty(0)
    shells = [_with(one, lambda _: nothing) for one in found]

    def computed(host: list[Tensor]) -> list[Computed]:
        rest = iter(host)
        return [_with(one, lambda _: next(rest)) for one in shells]

    return Pending(landing=landing, computed=computed)


def _trees(one: Computed) -> list[Any]:
    return [one.losses, one.grads, one.state]


def _with(one: Computed, change: Callable[[Tensor], Tensor]) -> Computed:
    """The same of other tensors."""
    losses, grads, state = map_tensors(change, _trees(one))
    return replace(one, losses=losses, grads=grads, state=state)


def _alone(job: Job, staging: Staging) -> Computed:
    """What becomes of a job, still on the device."""
    call = _brought(job.call, staging)
    names = sorted(call.wrt)
    leaves = tracked(call.inputs, names)
    with torch.set_grad_enabled(bool(leaves)):
        outputs, state = job.loss.step(call)
    upstream = [
        one for name, out in outputs.items() for one in _upstream(name, out, call.grad_output)
    ]
    grads = _grads(tensors(outputs), leaves, upstream)
    given = job.call.inputs
    return Computed(
        losses={
            name: map_tensors(
                Tensor.detach
                if name in job.loss.metrics
                else lambda one: rounded(one.detach(), given),
                out,
            )
            for name, out in outputs.items()
        },
        grads=_by_name(call.inputs, job, leaves, grads),
        state=map_tensors(Tensor.detach, state),
        metrics=job.loss.metrics & outputs.keys(),
    )


def _brought(call: Call, staging: Staging) -> Call:
    """The call with its tensors on the device, in the precision to compute in."""
    sent = [dict(call.inputs), dict(call.grad_output), call.state]
    rest = iter(staging.bring_in([[one] for one in tensors(sent)]))
    inputs, upstream, state = map_tensors(lambda _: next(rest), sent)
    place = functools.partial(placed, dtype=precision(call.inputs))
    return replace(
        call,
        inputs=map_tensors(place, inputs),
        grad_output=map_tensors(place, upstream),
        state=state,
    )


def _by_name(
    inputs: Mapping[str, Any], job: Job, leaves: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> dict[str, Any]:
    """For each name in wrt a tree of gradients, in the dtype of what was sent, or as is wished."""
    found = dict(zip(map(id, leaves), grads, strict=True))
    sent = job.call.inputs

    def grad_of(leaf: Tensor, own: Tensor) -> Tensor | None:
        grad = found.get(id(leaf))
        return None if grad is None else grad.to(job.wishes.early(own.dtype))

    return {name: zip_tensors(grad_of, inputs[name], sent[name]) for name in sorted(job.call.wrt)}


def _upstream(name: str, out: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """The upstream gradient of each tensor of an output."""
    outs = tensors(out)
    if name not in given:
        return [torch.ones_like(one) for one in outs]
    found = tensors(given[name])
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
) -> Sequence[Tensor | None]:
    if not leaves:
        return []
    reached = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    if not reached:
        return [None] * len(leaves)
    found, upstream = zip(*reached, strict=True)
    return torch.autograd.grad(found, leaves, upstream, allow_unused=True)
