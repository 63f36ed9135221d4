"""What a client asks of each of its calls, besides the loss: who goes first, in how many bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from losswire.narrow import check_keep, check_wire
from losswire.v1 import loss_pb2 as pb

#: What a client says of its calls, as the wire has it.
PRIORITIES = {
    "high": pb.PRIORITY_HIGH,
    "usual": pb.PRIORITY_UNSPECIFIED,
    "low": pb.PRIORITY_LOW,
}

#: What float32 and float64 are written in: one type each way, or one for "pred", "grad", ...
WireDtype = str | Mapping[str, str] | None

_WIRES = {
    "bfloat16": pb.DTYPE_BFLOAT16,
    "float16": pb.DTYPE_FLOAT16,
    "int8": pb.DTYPE_INT8,
}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a client asks of each of its calls.

    Attributes:
        priority: "high", "usual" or "low": who goes first where calls wait for a device.
        wire_dtype: "bfloat16", "float16" or "int8": the type in which float32 and float64 travel,
            in `pred` and in all gradients; but with int8 gradients are bfloat16. Or a map of types
            by name of an input, with that of gradients as "grad". What it does not name travels as
            it is.
        grad_keep: the share of a gradient's elements to send, the largest; above 0, at most 1.
    """

    priority: str = "usual"
    wire_dtype: WireDtype = None
    grad_keep: float | None = None

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(
                f"priority must be one of {', '.join(PRIORITIES)}; given {self.priority!r}"
            )
        several = isinstance(self.wire_dtype, Mapping)
        for name, wire in self.wires.items():
            check_wire(wire, f"wire_dtype.{name}" if several else "wire_dtype")
        if self.grad_keep is not None:
            check_keep(self.grad_keep, "grad_keep")

    @property
    def wires(self) -> Mapping[str, str]:
        """The types by name of an input, with that of gradients as "grad"."""
        given = self.wire_dtype
        if given is None or isinstance(given, Mapping):
            return given or {}
        # A row of a gradient often has one large element; steps of a 127th of it leave the others 0.
        return {"pred": given, "grad": "bfloat16" if given == "int8" else given}

    @property
    def plain(self) -> bool:
        """Whether all tensors travel as they are, as far as these terms go."""
        return self.wire_dtype is None and self.grad_keep is None

    def but(self, wire_dtype: WireDtype, grad_keep: float | None) -> "Terms":
        """The same, with what is given in place of what was."""
        if wire_dtype is None and grad_keep is None:
            return self
        return replace(
            self,
            wire_dtype=self.wire_dtype if wire_dtype is None else wire_dtype,
            grad_keep=self.grad_keep if grad_keep is None else grad_keep,
        )

    def write(self, header: pb.ComputeHeader) -> None:
        """Say them in a call's header."""
        header.priority = PRIORITIES[self.priority]
        if wire := self.wires.get("grad"):
            header.wire_dtype = _WIRES[wire]
        if self.grad_keep is not None:
            header.grad_keep = self.grad_keep


#: What a client asks for that was told nothing.
USUAL = Terms()
