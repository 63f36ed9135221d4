"""What the server is told at its start: frozen, checked, units in the text.

These classes are where an option is written; `__main__` makes the flags, the
environment variables and the help of them.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

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
class Scrape:
    """Where Prometheus finds the metrics, at /metrics over HTTP.

    Attributes:
        metrics_port: TCP port; 0 serves no metrics.
        metrics_host: address to listen on for it. Other machines only with --insecure.
    """

    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not 0 <= self.metrics_port < 65536:
            raise ValueError(f"metrics_port must be in 0..65535; given {self.metrics_port}")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the server computes on.

    Attributes:
        device: "auto" (all CUDA devices if there are any), "cpu", or some such as "cuda:0,cuda:1".
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
class Fusing:
    """Whether formulas are compiled, and where that is kept.

    Attributes:
        compile: "auto" compiles what is asked for often, in the background; "off" stays with
            eager torch, so that the same call gives the same bits for ever.
        kernel_cache: directory of compiled kernels; if left out, ~/.cache/lossserver/kernels.
        max_kernels: kernels held in memory; the one that was not used for longest makes room.
        warm: JSON file of calls whose kernels are to be there before the server serves.
    """

    compile: Literal["auto", "off"] = "auto"
    kernel_cache: str = ""
    max_kernels: int = 256
    warm: str = ""

    def __post_init__(self) -> None:
        if self.max_kernels < 1:
            raise ValueError(f"max_kernels must be at least 1; given {self.max_kernels}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    listen: Listen = field(default_factory=Listen)
    scrape: Scrape = field(default_factory=Scrape)
    device: Device = field(default_factory=Device)
    limits: Limits = field(default_factory=Limits)
    batch: BatchLimits = field(default_factory=BatchLimits)
    fusing: Fusing = field(default_factory=Fusing)
    ending: Ending = field(default_factory=Ending)


def check_reach(host: str, listen: Listen, option: str = "host") -> None:
    """Refuse an address that other machines reach, unless that was allowed.

    Raises:
        ValueError: they do, and it was not.
    """
    if not listen.insecure and not is_loopback(host):
        raise ValueError(
            f"{option} {host} is open to other machines, and without TLS whoever reaches the "
            f"server can use it; say --insecure if that is meant, or "
            f"--{option.replace('_', '-')} 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
