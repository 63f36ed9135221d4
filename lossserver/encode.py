"""Result → message: the reply's header, and the tensors' bytes as they lie."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossserver.job import Result
from lossserver.tree import map_tensors
from losswire import frame, tensor, value
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb


def encode(result: Result, decode_seconds: float) -> bytes:
    """The serialised ComputeResponse."""
    started = time.perf_counter()
    payloads: list[Buffer] = []
    header = pb.ResultHeader()
    _pack(result.computed.losses, header.losses, payloads, "losses")
    _pack(result.computed.grads, header.grads, payloads, "grads")
    header.metrics.extend(sorted(result.computed.metrics))
    if result.computed.state is not None:
        state = map_tensors(to_bytes, result.computed.state)
        header.state.CopyFrom(value.pack(state, payloads, "state"))
    header.timings.queue = result.queue
    header.timings.decode = decode_seconds
    header.timings.compute = result.compute
    header.timings.batch = result.batch
    header.timings.fused = result.computed.fused
    header.timings.encode = time.perf_counter() - started
    return frame.write(header.SerializeToString(), payloads)


def to_bytes(given: Tensor) -> TensorBytes:
    """The bytes of a CPU tensor, viewed if it is contiguous, else copied."""
    if given.dtype is torch.bfloat16:
        packed = tensor.pack(given.view(torch.int16).numpy())
        return packed._replace(dtype="bfloat16")
    return tensor.pack(given.numpy())


def _pack(trees: Mapping[str, Any], into: Any, payloads: list[Buffer], field: str) -> None:
    for name, tree in trees.items():
        packed = value.pack(map_tensors(to_bytes, tree), payloads, f"{field}.{name}")
        into[name].CopyFrom(packed)
