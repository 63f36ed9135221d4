"""Result → message: the reply's header, and the tensors' bytes as they lie."""

import functools
import struct
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lossserver.job import Computed, Job, Result
from lossserver.tree import map_tensors, zip_tensors
from lossserver.wishes import NO_WISHES, to_bytes
from losswire import tensor, value
from losswire.frame import Parts, varint
from losswire.tensor import Buffer, TensorBytes
from losswire.v1 import loss_pb2 as pb

#: Timings from queue to encode, a tag before each.
_STAGES = struct.Struct("<BdBdBdBd")


def encode(result: Result, decode_seconds: float, job: Job | None = None) -> Parts:
    """The parts of the ComputeResponse, as the job wishes them to be written."""
    started = time.perf_counter()
    payloads: list[Buffer] = []
    computed, header = result.computed, b""
    if job is not None and job.wishes != NO_WISHES:
        computed = _as_wished(computed, job)
    else:
        header = _plain_header(computed, payloads)
    header = header or _header(computed, payloads)
    # Two serialised messages in a row are one, merged.
    timings = _timings(result, decode_seconds, time.perf_counter() - started)
    return Parts(header + timings, payloads)


def _timings(result: Result, decode: float, encode: float) -> bytes:
    """A serialised ResultHeader that has nothing else. protobuf takes three times as long."""
    stages = _STAGES.pack(0x09, result.queue, 0x11, decode, 0x19, result.compute, 0x21, encode)
    inside = stages + b"\x28" + varint(result.batch) + b"\x30\x01" * result.computed.fused
    return b"\x22" + varint(len(inside)) + inside


def _as_wished(computed: Computed, job: Job) -> Computed:
    """The same, its gradients written already."""

    def written(grad: Tensor, own: Tensor) -> TensorBytes:
        return job.wishes.written(grad, own.dtype)

    grads = {
        name: zip_tensors(written, tree, job.call.inputs[name])
        for name, tree in computed.grads.items()
    }
    return replace(computed, grads=grads)


def _header(computed: Computed, payloads: list[Buffer]) -> bytes:
    """The serialised header but for the timings."""
    header = pb.ResultHeader()
    _pack(computed.losses, header.losses, payloads, "losses")
    _pack(computed.grads, header.grads, payloads, "grads")
    header.metrics.extend(sorted(computed.metrics))
    if computed.state is not None:
        state = map_tensors(to_bytes, computed.state)
        header.state.CopyFrom(value.pack(state, payloads, "state"))
    return header.SerializeToString()


def _plain_header(computed: Computed, payloads: list[Buffer]) -> bytes:
    """The same where each output and gradient is one tensor, or none; empty where not.

    Nearly all are, and the same ones step after step.
    """
    trees = *computed.losses.values(), *computed.grads.values()
    if computed.state is not None or computed.metrics:
        return b""
    if not all(isinstance(tree, Tensor) for tree in trees):
        return b""
    packed = [to_bytes(tree) for tree in trees]
    payloads.extend(one.buffer for one in packed)
    layout = tuple((one.dtype, one.shape) for one in packed)
    return _described(tuple(computed.losses), tuple(computed.grads), layout)


@functools.lru_cache(maxsize=1024)
def _described(
    losses: tuple[str, ...], grads: tuple[str, ...], layout: tuple[tuple[str, tuple[int, ...]], ...]
) -> bytes:
    """The serialised header of tensors of this layout, those of the losses first."""
    header = pb.ResultHeader()
    for index, (dtype, shape) in enumerate(layout):
        of_loss = index < len(losses)
        entry = (
            header.losses[losses[index]] if of_loss else header.grads[grads[index - len(losses)]]
        )
        entry.tensor_value.CopyFrom(tensor.describe(TensorBytes(dtype, shape, b""), index))
    return header.SerializeToString()


def _pack(trees: Mapping[str, Any], into: Any, payloads: list[Buffer], field: str) -> None:
    for name, tree in trees.items():
        packed = value.pack(map_tensors(to_bytes, tree), payloads, f"{field}.{name}")
        into[name].CopyFrom(packed)
