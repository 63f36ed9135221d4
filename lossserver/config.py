"""What the server is told at its start: frozen, checked, units in the text.

These classes are where an option is written; `__main__` makes the flags, the
environment variables and the help of them.
"""

import ipaddress
from dataclasses import dataclass, field

from lossserver.admit import Limits
from lossserver.batch import BatchLimits


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where the server can be reached.

    Attributes:
        host: address to listen on: an IP address or "localhost".
        port: TCP port; 0 takes a free one and says which.
        insecure: allow other machines to connect, unencrypted and unauthenticated.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    insecure: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in 0..65535; given {self.port}")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the server computes on.

    Attributes:
        device: "auto" (the first CUDA device if there is one), "cpu", or one such as "cuda:0".
        threads: CPU threads of one computation; 0 is one a core.
    """

    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads must be at least 0; given {self.threads}")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the server stops.

    Attributes:
        drain_timeout: seconds that calls in flight have to finish after SIGTERM.
    """

    drain_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not self.drain_timeout >= 0:
            raise ValueError(f"drain_timeout must be at least 0; given {self.drain_timeout}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    listen: Listen = field(default_factory=Listen)
    device: Device = field(default_factory=Device)
    limits: Limits = field(default_factory=Limits)
    batch: BatchLimits = field(default_factory=BatchLimits)
    ending: Ending = field(default_factory=Ending)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
