"""lossserver.front: who asks."""

import asyncio

import grpc
import pytest

from lossclient.channel import options
from lossserver.front import connection_of, tenant_of

ASK = "/a.B/Ask"


async def tenants(address, *channels):
    """What a server that listens there takes the callers of these channels for."""

    async def ask(_, context):
        await context.read()
        return f"{tenant_of(context)}\n{connection_of(context)}".encode()

    server = grpc.aio.server()
    ask = grpc.stream_unary_rpc_method_handler(ask)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"Ask": ask}),))
    port = server.add_insecure_port(address)
    target = address.replace(":0", f":{port}")
    await server.start()
    found = []
    for given in channels:
        async with grpc.aio.insecure_channel(target, given) as channel:
            told = [(await channel.unary_unary(ASK)(b"?")).decode().split("\n") for _ in range(2)]
            assert told[0] == told[1]
            found.append(told[0])
    await server.stop(0)
    return found


@pytest.mark.parametrize("address", ["unix:{}/socket", "127.0.0.1:0"])
def test_each_client_is_a_tenant(tmp_path, address):
    """Without a certificate it is the connection, also by a Unix socket; call after call."""
    channels = [options("unix:", -1) for _ in range(3)]
    found = asyncio.run(tenants(address.format(tmp_path), *channels))

    assert len({tenant for tenant, _ in found}) == 3
    assert all(tenant == connection for tenant, connection in found)


def test_a_long_word_is_cut(tmp_path):
    """What a stranger says of itself is kept, so it takes no more than a line."""
    agent = [("grpc.primary_user_agent", "x" * 5000)]
    ((tenant, _),) = asyncio.run(tenants(f"unix:{tmp_path}/socket", agent))

    assert len(tenant) < 100
