"""Tensors that stay with the server for a while, named by what they are.

    put         PutTensor: bytes that a caller leaves here, or asks for
    resolved    a call that names some of them, with their bytes in their places

The server computes the digest itself before it believes it. A tensor belongs to
the tenant that put it; without a certificate that is a connection. gRPC does not
tell when one is closed, so what it has put goes when it is unused for the time
to live, or sooner as others need the room.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lossserver import elsewhere
from lossserver.admit import Place
from lossserver.answer import LARGE, aside
from lossserver.front import Context, Front, abort, connection_of, tenant_of
from lossserver.held import Held
from lossserver.told import let_go
from losswire import frame
from losswire.errors import MessageError, NotResidentError, NotServedError
from losswire.frame import Parts
from losswire.resident import DIGEST, digest_of
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb


async def put(front: Front, context: Context) -> bytes:
    """One PutTensor. Its message comes in as that of a call does, and counts as one."""
    place = front.admission.begin()
    context.add_done_callback(place.end)  # type: ignore[arg-type]  # the stub's is sync gRPC's
    try:
        check_served(front)
        front.admission.check()
        tenant = tenant_of(context)
        await front.door.enter(tenant, context.time_remaining())
        try:
            message = await front.receiving.message(context.read, connection_of(context))
            place.enter(len(message), context.time_remaining())
            return await _put(front, tenant, message, place)
        finally:
            front.door.leave(tenant)
    except asyncio.CancelledError as error:
        let_go(error)
        raise
    except Exception as error:  # noqa: BLE001  (every call ends in a status)
        await abort(context, error)


def check_served(front: Front) -> None:
    """Raise NotServedError if nothing stays with this server."""
    if not front.held.residence.largest:
        raise NotServedError(
            "no tensor stays with this server (--max-resident-bytes 0); send its bytes in the call"
        )


async def _put(front: Front, tenant: str, message: bytes, place: Place) -> bytes:
    # A PutTensorRequest has the outline of a call: one field of bytes, then others.
    digest, contents, _ = frame.read(message)
    if len(digest) != DIGEST:
        raise MessageError(
            f"must be BLAKE2b-256, {DIGEST} bytes", field="digest", given=f"{len(digest)} bytes"
        )
    if len(contents) > 1:
        raise MessageError("must be there once", field="content", given=f"{len(contents)} times")
    held = front.held
    there = held.find(tenant, digest) is not None
    if contents and not there:
        held.check(len(contents[0]))
        work = functools.partial(_own, contents[0], digest)
        content = await aside(work, place) if len(message) >= LARGE else work()
        held.put(tenant, digest, content)
        there = True
        _tend(held)
    return pb.PutTensorResponse(held=there, ttl=held.residence.resident_ttl).SerializeToString()


def _own(content: Buffer, digest: bytes) -> Tensor:
    """A copy of the bytes in memory of its own, aligned for any element type.

    Raises:
        MessageError: they do not have that digest.
    """
    if (found := digest_of(content)) != digest:
        raise MessageError(
            f"must be the BLAKE2b-256 of the content, {found.hex()}",
            field="digest",
            given=digest.hex(),
        )
    memory = torch.empty(len(content), dtype=torch.uint8)
    memory.numpy().data[:] = content
    return memory


def _tend(held: Held) -> None:
    """Look after what is held, for as long as there is something."""
    if held.tended:
        return
    due = held.expire()
    held.tended = due is not None
    if due is not None:
        asyncio.get_running_loop().call_later(due, _tend_again, held)


def _tend_again(held: Held) -> None:
    held.tended = False
    _tend(held)


def resolved(
    parts: Parts,
    front: Front,
    tenant: str,
    place: Place,
    in_region: Callable[[pb.Span], Buffer] = elsewhere.no_region,
) -> Parts:
    """The call with all of its payloads.

    Parameters:
        parts: as it came.
        tenant: who asks, and whose tensors it may name.
        place: what the call takes up; the tensors that it names are added to that.
        in_region: the bytes of a span.

    Raises:
        NotResidentError: it names a tensor that is not here.
        MessageTooLargeError, OverloadedError: with the tensors that it names it may not enter.
        RequestError: something else is not there.
    """
    return elsewhere.resolved(
        parts, in_region, functools.partial(_named, front.held, tenant, place)
    )


def _named(held: Held, tenant: str, place: Place, digest: bytes) -> Any:
    content = held.find(tenant, digest)
    if content is None:
        raise NotResidentError(
            "must name a tensor that is with the server; put it, or send it in the call",
            field="elsewhere.digest",
            given=digest[:DIGEST].hex(),
        )
    place.more(len(content))
    return content
