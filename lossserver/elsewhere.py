"""Payloads that are not in their message: found, so that nothing after this knows of it."""

from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from losswire.errors import MessageError
from losswire.frame import MAX_FIELDS, Parts
from losswire.tensor import Buffer
from losswire.v1 import loss_pb2 as pb


def places(parts: Parts) -> list[pb.Elsewhere]:
    """Where the payloads of `elsewhere` are.

    Raises:
        MessageError: it does not say.
    """
    if len(parts.elsewhere) > MAX_FIELDS:
        raise MessageError(f"a message must have at most {MAX_FIELDS} fields and payloads")
    try:
        found = [pb.Elsewhere.FromString(bytes(one)) for one in parts.elsewhere]
    except DecodeError:
        raise MessageError("must be losswire.v1.Elsewhere", field="elsewhere") from None
    if not all(one.WhichOneof("place") for one in found):
        raise MessageError("must say where a payload is", field="elsewhere", given="nothing")
    return found


def resolved(
    parts: Parts, in_region: Callable[[pb.Span], Buffer], held: Callable[[bytes], Buffer]
) -> Parts:
    """The call with all of its payloads.

    Parameters:
        parts: as it came.
        in_region: the bytes of a span.
        held: the bytes that go by a digest.

    Raises:
        RequestError: one is not there.
    """
    if not parts.elsewhere:
        return parts
    found: Sequence[Buffer] = [
        in_region(one.span) if one.HasField("span") else held(one.digest) for one in places(parts)
    ]
    return Parts(parts.header, [*parts.payloads, *found])


def no_region(_: pb.Span) -> Buffer:
    """Of a call that came over no stream, and so has no region.

    Raises:
        MessageError: always.
    """
    raise MessageError("a span must be of a region of the call's own stream", field="elsewhere")
