"""Direct connections for tests, both ends in this process."""

import asyncio
import socket
from contextlib import ExitStack

from lossserver.direct import Direct
from losswire.direct import GREETING, WELCOME, greeted
from tests.conftest import PATIENCE
from tests.server.talk import descriptors

#: Of calls in flight: more than any test needs.
MOST_BYTES = 1 << 30


def listen():
    """A socket that is listened on."""
    return socket.create_server(("127.0.0.1", 0))


def run(scenario, listen=listen):
    """What a scenario gives, told of all connections and of a way to connect; nothing is left open."""

    async def whole(peers):
        found = Direct(listen(), MOST_BYTES)
        port = found.port

        async def connected(*, repeats=True):
            """A peer's end of a new connection, and its name, which it repeats."""
            loop = asyncio.get_running_loop()
            line = peers.enter_context(socket.socket())
            line.setblocking(False)
            await loop.sock_connect(line, ("127.0.0.1", port))
            name = greeted(await loop.sock_recv(line, 2 * GREETING))
            if repeats:
                await loop.sock_sendall(line, name)
                assert await loop.sock_recv(line, 2) == WELCOME
            return line, name

        try:
            return await asyncio.wait_for(scenario(found, connected), PATIENCE)
        finally:
            found.close()

    before = descriptors()
    with ExitStack() as peers:
        result = asyncio.run(whole(peers))
    assert descriptors() == before
    return result
