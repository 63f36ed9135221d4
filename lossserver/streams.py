"""How many streams a connection may have. (stream.py is about one of them.)"""

from lossserver.front import Context, Front, abort, connection_of
from lossserver.stream import Stream
from losswire.errors import LossError, OverloadedError

#: Streams of one connection. A client of ours has one, and two for a moment as it makes another.
STREAMS = 8

#: Streams of all connections to a Unix socket.
UNIX_STREAMS = 256


async def serve(front: Front, context: Context) -> None:
    """One ComputeStream."""
    streams, peer = front.streams, connection_of(context)
    streams[peer] += 1
    try:
        # gRPC does not tell one caller of a Unix socket from another.
        most = UNIX_STREAMS if peer.startswith("unix:") else STREAMS
        if streams[peer] > most:
            why: LossError | None = OverloadedError(f"a connection may have at most {most} streams")
        else:
            why = await Stream(front, context).run()
        if why is not None:
            await abort(context, why)
    finally:
        streams[peer] -= 1
        if not streams[peer]:
            del streams[peer]
