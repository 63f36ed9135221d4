"""What the load generator is told: frozen, checked, units in the text."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run.

    Attributes:
        call: calls to send in turn, each LOSS:SHAPE[/DTYPE] or LOSS:NAME=SHAPE[/DTYPE][<LIMIT],…
            LOSS is a name or a JSON config, SHAPE that of pred, such as 64x80. For a loss whose
            inputs cannot be made up from that, name each of them; integers are below LIMIT.
        target: where the server listens, host:port or unix:/path; if left out, one is started and stopped.
        callers: of a closed loop: each sends its next call when the last is answered.
        rate: calls a second of an open loop, which come as they come, answered or not; 0 is a
            closed loop.
        seconds: how long to measure.
        warmup: seconds to send calls before that, unmeasured.
        deadline: seconds each call may take, from when it should have started.
        connections: TCP connections in all, each a tenant of its own; a process has at least one.
        plane: how calls travel: "inline", each in a unary call, or "stream", over one a connection.
        processes: processes that send, for when one is not fast enough.
        seed: of the inputs and of the arrivals.
        json: file to write the figures to, "-" for stdout in place of the table.
    """

    call: tuple[str, ...] = ("FocalLoss:64x80",)
    target: str = ""
    callers: int = 1
    rate: float = 0.0
    seconds: float = 10.0
    warmup: float = 2.0
    deadline: float = 30.0
    connections: int = 1
    plane: Literal["inline", "stream"] = "inline"
    processes: int = 1
    seed: int = 0
    json: str = ""

    def __post_init__(self) -> None:
        for name in ("connections", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; given {getattr(self, name)}")
        for name in ("seconds", "deadline"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0; given {getattr(self, name)}")
        for name in ("rate", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0; given {getattr(self, name)}")
        if not self.call:
            raise ValueError("call must name at least one; given none")
        if self.callers < self.processes and not self.rate:
            raise ValueError(
                f"callers must be at least one a process; given {self.callers} of {self.processes}"
            )

    @property
    def loop(self) -> str:
        """ "open" or "closed"."""
        return "open" if self.rate else "closed"
