"""One call in pieces, both directions at once.

    streamed     Rows are computed, and their gradient goes out, while later ones are on their way.
                 What is held is a few pieces, however large the call.
    assembled    All other calls: put together first, computed as any call, and sent in pieces.

The payloads that are not pred's come first. With those alone most losses say what
becomes of each row (streamed.py).
"""

import asyncio
import functools
import time
from typing import Any, NamedTuple

from lossserver import resident
from lossserver.account import Account
from lossserver.admit import Place
from lossserver.admitted import admitted
from lossserver.answer import Asker, answer, aside
from lossserver.front import Context, Front
from lossserver.incoming import Incoming
from lossserver.job import Job, Result
from lossserver.outgoing import Outgoing
from lossserver.outline import Outline, header_of, outline
from lossserver.streamed import HELD, held, may_be_streamed, stream, unseen
from losswire.frame import Parts
from losswire.layout import Layout, layout
from losswire.v1 import loss_pb2 as pb


async def serve(front: Front, context: Context) -> None:
    """One ComputeLarge."""

    async def work(tenant: str, place: Place, account: Account) -> None:
        """From its first message to its last."""
        remaining = context.time_remaining()
        asker = Asker(tenant=tenant, remaining=remaining, place=place, account=account)
        await _answer(front, context, asker)

    await admitted(front, context, work)


class _Call(NamedTuple):
    """A call whose header is here, and all payloads but those of pred."""

    header: bytes
    said: Outline
    pieces: Layout
    payloads: list[Any]
    asker: Asker


async def _answer(front: Front, context: Context, asker: Asker) -> None:
    incoming = Incoming(front.receiving, context)
    parts, direct = await incoming.header()
    with front.direct.used(direct) as incoming.connection:
        outgoing = Outgoing(context, incoming.connection)
        call = await _begun(parts, front, incoming, asker)
        job = await _unseen(call)
        if job is not None:
            await _streamed(job, call, incoming, outgoing, front)
        else:
            await _assembled(call, incoming, outgoing, front)


async def _begun(parts: Parts, front: Front, incoming: Incoming, asker: Asker) -> _Call:
    place = asker.place
    pieces = layout(header_of(parts.header), len(parts.elsewhere))
    place.enter(pieces.bytes(pieces.others) + min(pieces.bytes(pieces.pred), HELD), asker.remaining)
    found = resident.resolved(Parts(b"", [], parts.elsewhere), front, asker.tenant, place).payloads
    lengths = (*pieces.sizes, *map(len, found))
    said = await aside(functools.partial(outline, parts.header, lengths), place)
    payloads: list[Any] = [b""] * len(pieces.sizes) + [*found]
    for number in pieces.others:
        payloads[number] = await incoming.whole(number, pieces.sizes[number])
    return _Call(parts.header, said, pieces, payloads, asker)


async def _unseen(call: _Call) -> Job | None:
    """The job of a call that can be computed while it comes in; None of any other."""
    said, place = call.said, call.asker.place
    if len(call.pieces.pred) != 1 or not may_be_streamed(said, header_of(call.header)):
        return None
    payloads = [*call.payloads]
    payloads[call.pieces.pred[0]] = said.blank.inputs["pred"]
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    place.more(said.spread)
    job = await aside(functools.partial(unseen, said, payloads, call.asker, future), place)
    if job is None:
        place.less(said.spread)  # it counts when the call is put together
    return job


async def _streamed(
    job: Job, call: _Call, incoming: Incoming, outgoing: Outgoing, front: Front
) -> None:
    place, account = call.asker.place, call.asker.account
    place.more(max(0, held(job) - HELD))
    account.job = job
    started = time.perf_counter()
    result, header = await stream(job, call.pieces.pred[0], incoming, outgoing, front.pool)
    account.result = result
    account.total = time.perf_counter() - started
    header.timings.CopyFrom(
        pb.Timings(
            queue=result.queue,
            compute=result.compute,
            batch=result.batch,
            fused=result.computed.fused,
        )
    )
    await outgoing.header(header.SerializeToString())


async def _assembled(call: _Call, incoming: Incoming, outgoing: Outgoing, front: Front) -> None:
    pieces, payloads = call.pieces, call.payloads
    call.asker.place.more(max(0, pieces.bytes(pieces.pred) - HELD))
    for number in pieces.pred:
        payloads[number] = await incoming.whole(number, pieces.sizes[number])
    await incoming.end()
    parts = Parts(call.header, payloads)
    await outgoing.all(await answer(parts, call.asker, front.pool))
