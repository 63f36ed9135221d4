"""The server an engineer writes in an afternoon: each call parsed, computed and answered by itself.

    python -m benchmarks.naive [--threads 1]

It answers Compute of losswire.v1 for FocalLoss of class indices, reduced to the
mean over all elements, with the formula of benchmarks/local.py. Plain protobuf
messages, eager torch, autograd; no batching, no checks, no log. On the event
loop, which is faster here than in a pool of threads.
"""

import argparse
import asyncio
from typing import Any

import grpc
import numpy as np
import torch
from torch import Tensor

from benchmarks.echo import serve
from benchmarks.local import focal
from losswire.v1 import loss_pb2 as pb

DTYPES = {pb.DTYPE_FLOAT32: np.float32, pb.DTYPE_INT64: np.int64}


def tensor_of(request: pb.ComputeRequest, name: str) -> Tensor:
    """An input of the call."""
    described = request.header.inputs[name].tensor_value
    array = np.frombuffer(request.payloads[described.payload], DTYPES[described.dtype])
    return torch.from_numpy(array.reshape(described.shape).copy())


def add(reply: pb.ComputeResponse, into: Any, tensor: Tensor) -> None:
    """Put a tensor into the reply, under the entry `into` of its header."""
    described = into.tensor_value
    described.dtype = pb.DTYPE_FLOAT32
    described.shape.extend(tensor.shape)
    described.payload = len(reply.payloads)
    reply.payloads.append(tensor.numpy().tobytes())


async def compute(request: pb.ComputeRequest, _: Any) -> pb.ComputeResponse:
    """The loss and its gradient."""
    pred = tensor_of(request, "pred").requires_grad_()
    loss = focal(pred, tensor_of(request, "target"))
    loss.backward()
    assert pred.grad is not None  # noqa: S101  (backward has just set it)
    reply = pb.ComputeResponse()
    add(reply, reply.header.losses["loss"], loss.detach())
    add(reply, reply.header.grads["pred"], pred.grad)
    return reply


def main() -> None:
    """Serve on a free port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0 is its own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    handler = grpc.unary_unary_rpc_method_handler(
        compute, pb.ComputeRequest.FromString, pb.ComputeResponse.SerializeToString
    )
    asyncio.run(serve(handler))


if __name__ == "__main__":
    main()
