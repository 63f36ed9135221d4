"""A bare grpc.aio server that answers each Compute call with its own message: the floor of any such service.

python -m benchmarks.echo
"""

import asyncio
import sys
from typing import Any

import grpc

SERVICE = "losswire.v1.LossService"


async def echo(message: bytes, _: Any) -> bytes:
    """The message."""
    return message


async def serve(handler: grpc.RpcMethodHandler) -> None:
    """Answer Compute calls by that handler on a free port, until the process is ended."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Compute": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"serving on 127.0.0.1:{port} ", file=sys.stderr)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(grpc.unary_unary_rpc_method_handler(echo)))
