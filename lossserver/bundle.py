"""Calls of one message that differ in their numbers alone, as one job.

Most of what a small call costs is done once for all of them: their tensors are copied
side by side, checked as those of one call with so many more rows, computed as one job,
and the answers are cut from one gradient. A row depends on nothing but itself, so each
gets what it would get alone.

That is so of reduced rowwise losses, unless a call's divisor depends on its tensors.
All others, and those in which anything is wrong, are answered one by one.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from lossserver.answer import Asker, whole
from lossserver.company import sums_up
from lossserver.decode import job_of
from lossserver.encode import encode
from lossserver.job import Job, Result
from lossserver.losses.loss import Call
from lossserver.losses.rows import Rows, RowwiseLoss
from lossserver.onloop import MANY, MANY_ELEMENTS, SMALL
from lossserver.outline import Outline, outline
from lossserver.pool import Pool
from lossserver.tree import map_tensors, tensors
from lossserver.wishes import NO_WISHES, to_bytes
from losswire import lists, saying
from losswire.runs import MOST, Run
from losswire.tensor import Buffer

#: Of those that were remembered (outline.py), the ones of which several are no job: nothing of that
#: is said by a tensor's numbers, and to find it out costs as much as to compute them.
_APART: WeakSet[Outline] = WeakSet()


def alike(run: Run) -> Outline | None:
    """What each call of a run asks for, if several of them may be one job."""
    try:
        said = outline(run.header, tuple(one.shape[1] for one in run.payloads))
        return said if _may_be_one(said) else None
    except Exception:  # noqa: BLE001  (whatever it is, each call is told by itself)
        return None


def _may_be_one(said: Outline) -> bool:
    loss, blank = said.loss, said.blank
    if said in _APART or not isinstance(loss, RowwiseLoss) or loss.slow or said.wishes != NO_WISHES:
        return False
    if loss.reduction_of(blank) == "none" or blank.grad_output or blank.state is not None:
        return False
    if "weight" in blank.wrt or said.spread or any(one.wire for one in said.sources):
        return False
    counts = {leaf.shape[:1] for leaf in tensors(dict(blank.inputs))}
    return len(counts) == 1 and said.elements > 0 and () not in counts


def most(said: Outline, *, alone: bool) -> int:
    """How many such calls are one job at most: some two milliseconds of the event loop.

    Parameters:
        said: what each of them asks for.
        alone: whether there are no other tenants; if they wait, it is half as much.
    """
    if said.elements > SMALL:
        return 1
    most, elements = (MOST, 2 * MANY_ELEMENTS) if alone else (MANY, MANY_ELEMENTS)
    return min(most, elements // said.elements)


class ApartError(Exception):
    """The calls are to be answered one by one."""


async def answered(said: Outline, run: Run, asker: Asker, pool: Pool) -> list[Buffer]:
    """What a message with the answers to the calls of a run is joined of.

    Parameters:
        said: what each of them asks for.
        run: they themselves.
        asker: who waits for them.
        pool: where they are computed.

    Raises:
        Exception: they are to be answered one by one.
    """
    started = time.perf_counter()
    account, remaining = asker.account, asker.remaining
    deadline = None if remaining is None else time.monotonic() + remaining
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    job = account.job = bundle(said, run, deadline, future, asker.tenant)
    account.decode = time.perf_counter() - started
    result = account.result = await whole(job, pool)
    computed = time.perf_counter()
    written = answers(job, result, account.decode, run)
    ended = time.perf_counter()
    account.encode, account.total = ended - computed, ended - started
    return written


def bundle(
    said: Outline, run: Run, deadline: float | None, future: "asyncio.Future[Any]", tenant: str
) -> Job:
    """The one job that the calls of a run are.

    Parameters:
        said: what each of them asks for.
        run: they themselves.
        deadline: monotonic seconds after which nobody waits for them.
        future: where their results are to go.
        tenant: who asks.

    Raises:
        ApartError, RequestError, RefusedError: they are to be answered one by one.
    """
    many = len(run.ids)
    call = said.of([one.rows(run.payloads) for one in said.sources])
    first = job_of(said, _first(call, many), deadline, future, tenant)
    rows = first.rows and _rows(said.loss, call, first.rows, many)
    if rows is None:
        _APART.add(said)
        raise ApartError
    return replace(
        first, rows=rows, elements=first.elements * many, bytes=first.bytes * many, many=many
    )


def _first(call: Call, many: int) -> Call:
    """The first of so many calls whose rows stand one after another."""
    inputs = map_tensors(lambda leaf: leaf[: len(leaf) // many], call.inputs)
    return replace(call, inputs=inputs)


def _rows(loss: Any, call: Call, first: Rows, many: int) -> Rows | None:
    """What all of the calls add to a batch, given what the first does; None if that is another thing.

    Raises:
        RefusedError: something is wrong with one of them.
    """
    own = loss.for_call(call)
    whole = own.sample(call)
    if not sums_up(first) or first.cotangent.upstream is not None:
        return None
    divides = call.avg_factor is None and own.reduction_of(call) != "sum"
    if divides and (whole.avg_factor, whole.divisor) != (None, None):
        return None
    weight = first.cotangent.weight
    shapes = [_times(leaf.shape, many) for leaf in first.leaves]
    if [tuple(leaf.shape) for leaf in tensors(whole.inputs)] != shapes:
        return None
    if (weight is None) != (whole.weight is None):
        return None
    if weight is not None and tuple(whole.weight.shape) != _times(weight.shape, many):
        return None
    shape = _times(first.shape, many)
    end = replace(first.cotangent, shape=shape, weight=whole.weight)
    return replace(first, inputs=whole.inputs, shape=shape, weight=None, cotangent=end)


def _times(shape: Sequence[int], many: int) -> tuple[int, ...]:
    return (shape[0] * many, *shape[1:])


def answers(job: Job, result: Result, decode_seconds: float, run: Run) -> list[Buffer]:
    """What a message with the answers of a bundle is joined of: a list, if its calls came as one and it may be.

    Parameters:
        job: the bundle.
        result: what became of it.
        decode_seconds: it took to decode.
        run: its calls.
    """
    losses, grads = dict(result.computed.losses), dict(result.computed.grads)
    first = replace(
        result.computed,
        losses={"loss": losses["loss"][0]},
        grads=map_tensors(lambda one: one[: len(one) // job.many], grads),
    )
    header, _, _ = encode(replace(result, computed=first), decode_seconds)
    columns: list[Any] = [to_bytes(one).buffer for one in tensors([losses, grads])]
    if run.listed and lists.fits(header, columns):
        return saying.answer_list(run.ids[0], len(run.ids), header, columns)
    return saying.answers(run.ids, header, columns)
