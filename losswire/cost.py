"""What a call costs on its way: bytes, which are exact, and seconds, by a small model.

    seconds = a call's own + moving its bytes + computing

    stream    own: streamed   moving: bytes × stream, or bytes / bandwidth if that is longer; of
                              calls up to 4 MiB
    inline    own: unary      moving: bytes × inline, or bytes / bandwidth if that is longer
    pieces    own: unary      moving: bytes × pieces, or the larger of the two / bandwidth if that is
                              longer: both directions are at work at once; of calls from 4 MiB
    shared    own: streamed   moving: bytes × shared; on one machine only

    bytes = up + down; a call's own is longer by the latency of the network

Nothing here is sent, measured or allocated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from losswire import frame
from losswire.bypass import LONGEST
from losswire.dtypes import DTYPES, FLOATS
from losswire.frame import Parts
from losswire.precision import row_shape
from losswire.v1 import loss_pb2 as pb
from losswire.value import tensors

#: Bytes up to which a call goes over a stream, and from which it goes in pieces: past gRPC. And from
#: which on it goes through shared memory.
STREAMED = PIECED = LONGEST - (1 << 16)
SHARED = 1 << 20

#: Bytes of a reply's header: a loss, a gradient and the timings take about so many.
HEADER = 100

_BY = {
    "inline": "inline",
    "stream": "over a stream",
    "pieces": "in pieces",
    "shared": "through shared memory",
}

_ROWS: dict[int, tuple[str, int]] = {row.wire: (name, row.itemsize) for name, row in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a call and a byte cost, in seconds, between two processes of one machine.

    The defaults are of 2 cores of a virtual x86 machine, CPU only, both ends keeping their memory:
    medians of benchmarks/bench_planes.py, cross entropy of 128 MiB for what is by byte. Infinite is
    a way that there is not.

    Attributes:
        unary: a call with next to no bytes, in a message of its own.
        streamed: likewise over a stream that is open.
        inline: moving a byte in one message.
        stream: moving a byte over a stream that has a bypass. By gRPC alone it is as inline.
        pieces: moving a byte in pieces over a direct connection. By gRPC it is 0.65e-9.
        shared: moving a byte through shared memory.
        remote: value and gradient on a server, a byte of the tensors whose gradients are wanted.
        local: likewise by eager torch in a plain process. A formula of many steps takes a few times
            as long as cross entropy, on either side.
        steps: eager torch's own time for value and gradient of next to no bytes.
    """

    unary: float = 1e-3
    streamed: float = 0.5e-3
    inline: float = 2.6e-9
    stream: float = 0.6e-9
    pieces: float = 0.35e-9
    shared: float = 0.12e-9
    remote: float = 0.3e-9
    local: float = 1.4e-9
    steps: float = 0.2e-3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a call will cost. As a text: one plain sentence.

    Attributes:
        up: bytes of the call.
        down: bytes of its answer.
        seconds: of the whole call, by plane.
        local_seconds: of computing it in the caller's own process.
    """

    up: int
    down: int
    seconds: dict[str, float]
    local_seconds: float

    @property
    def plane(self) -> str:
        """The fastest way."""
        return min(self.seconds, key=self.seconds.__getitem__)

    @property
    def pays(self) -> bool:
        """Whether that is faster than computing locally."""
        return self.seconds[self.plane] < self.local_seconds

    def __str__(self) -> str:
        remote, local = self.seconds[self.plane], self.local_seconds
        moved = f"{_bytes(self.up)} up and {_bytes(self.down)} down"
        times = f"{remote * 1e3:.3g} ms {_BY[self.plane]} against {local * 1e3:.3g} ms locally"
        if self.pays:
            return f"Going remote pays, {_times(local / remote)} as fast: {times}, with {moved}."
        if not local:
            return f"Going remote does not pay: {times}, with {moved}."
        return (
            f"Going remote does not pay, {_times(remote / local)} as slow: {times}, with {moved}."
        )


def estimate(
    parts: Parts,
    *,
    bandwidth: float | None = None,
    latency: float = 0.0,
    local_seconds: float | None = None,
    remote_seconds: float | None = None,
    costs: Costs | None = None,
) -> Estimate:
    """What the call of these parts will cost.

    Parameters:
        parts: of a ComputeRequest.
        bandwidth: bytes a second each way, of the network between; None is on one machine.
        latency: seconds there and back, beyond what two processes of one machine need.
        local_seconds: what computing it locally takes; None by the model.
        remote_seconds: what computing it on the server takes; likewise.
        costs: what to reckon with; None is the defaults.

    Raises:
        ValueError: a number is out of range.
    """
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be above 0 bytes a second; given {bandwidth}")
    if not latency >= 0:
        raise ValueError(f"latency must be at least 0 s; given {latency}")
    costs = costs or Costs()
    header = pb.ComputeHeader.FromString(parts.header)
    up = sum(map(len, frame.laid_out(*parts)))
    down = bytes_down(header)
    work = sum(map(_size, _differentiated(header)))
    computing = work * costs.remote if remote_seconds is None else remote_seconds
    return Estimate(
        up=up,
        down=down,
        seconds={
            plane: seconds + computing
            for plane, seconds in _moving(up, down, bandwidth, latency, costs).items()
            if seconds < math.inf
        },
        local_seconds=costs.steps + work * costs.local if local_seconds is None else local_seconds,
    )


def _moving(
    up: int, down: int, bandwidth: float | None, latency: float, costs: Costs
) -> dict[str, float]:
    """Seconds of a call without its computing, by plane."""
    both = up + down
    slowness = 0.0 if bandwidth is None else 1 / bandwidth
    inline = max(both * costs.inline, both * slowness)
    found = {"inline": costs.unary + latency + inline}
    if up <= STREAMED:
        stream = max(both * costs.stream, both * slowness)
        found["stream"] = costs.streamed + latency + stream
    if up >= PIECED:
        pieces = max(both * costs.pieces, max(up, down) * slowness)
        found["pieces"] = costs.unary + latency + pieces
    if bandwidth is None and up >= SHARED:
        found["shared"] = costs.streamed + latency + both * costs.shared
    return found


def bytes_down(header: pb.ComputeHeader) -> int:
    """Bytes of the answer: the gradients to the byte, its header about.

    A loss that is not reduced is counted as large as pred, which no loss exceeds.
    """
    found = HEADER + 4
    if "none" in (header.reduction_override or _reduction(header.config)):
        found += sum(map(_size, tensors(header.inputs["pred"])))
    share = header.grad_keep if header.HasField("grad_keep") else 1.0
    return found + sum(_gradient(one, header.wire_dtype, share) for one in _differentiated(header))


def _gradient(of: pb.Tensor, wire: int, share: float) -> int:
    """Bytes of one gradient."""
    elements, itemsize, scales = math.prod(of.shape), _ROWS[of.dtype][1], 0
    if wire and _ROWS[of.dtype][0] in FLOATS:
        name, itemsize = _ROWS[wire]
        scales = 4 * row_shape(of.shape)[0] if name != "bfloat16" else 0
    count = math.ceil(share * elements)
    return scales + min(count * (itemsize + 8), elements * itemsize)


def _differentiated(header: pb.ComputeHeader) -> Iterator[pb.Tensor]:
    """The tensors whose gradients are wanted."""
    for name in header.wrt:
        for leaf in tensors(header.inputs[name]):
            if "float" in _ROWS[leaf.dtype][0]:
                yield leaf


def _reduction(config: pb.Value) -> str:
    return config.map_value.entries["reduction"].string_value


def _size(of: pb.Tensor) -> int:
    return _ROWS[of.dtype][1] * math.prod(of.shape)


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _times(factor: float) -> str:
    return f"{factor:.1f} times"
