"""What the server is told at its start: frozen, checked, units in the text.

These classes are where an option is written; `__main__` makes the flags, the
environment variables and the help of them.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from lossserver.admit import Limits
from lossserver.batch import BatchLimits
from lossserver.unix import is_unix
from losswire import memory


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where the server can be reached.

    Attributes:
        host: address to listen on: an IP address, "localhost", or "unix:/path" for a Unix socket.
        port: TCP port; 0 takes a free one and says which. A Unix socket has none.
        insecure: allow other machines to connect, unencrypted and unauthenticated.
        direct_port: TCP port of the same address, for the pieces of large calls, which are faster
            without gRPC; 0 has none. -1 takes a free one where only this machine can connect.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    insecure: bool = False
    direct_port: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in 0..65535; given {self.port}")
        if not -1 <= self.direct_port < 65536:
            raise ValueError(f"direct_port must be in -1..65535; given {self.direct_port}")
        if self.direct_port == self.port > 0:
            raise ValueError(f"direct_port must be another than port; given {self.direct_port}")

    def target(self, port: int) -> str:
        """What a client calls it, if that is its port."""
        if is_unix(self.host):
            return self.host
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


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
class Memory:
    """What the server does with memory that is free again.

    Attributes:
        keep_memory: bytes of it that stay for the calls to come; 0 gives all back at once.
    """

    keep_memory: int = memory.USUAL

    def __post_init__(self) -> None:
        if self.keep_memory < 0:
            raise ValueError(f"keep_memory must be at least 0; given {self.keep_memory}")


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
class Residence:
    """How much may stay with the server between calls.

    Attributes:
        max_resident_bytes: bytes of all tensors that callers leave here; 0 takes none.
        max_tenant_resident_bytes: bytes of those of one tenant: of all with one certificate, else
            of one connection.
        resident_ttl: seconds after its last use for which a tensor stays, if there is room.
    """

    max_resident_bytes: int = 1 << 30
    max_tenant_resident_bytes: int = 512 << 20
    resident_ttl: float = 600.0

    def __post_init__(self) -> None:
        for name in ("max_resident_bytes", "max_tenant_resident_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0; given {getattr(self, name)}")
        if not self.resident_ttl > 0:
            raise ValueError(f"resident_ttl must be above 0; given {self.resident_ttl}")

    @property
    def largest(self) -> int:
        """Bytes that one tenant may have here; 0 where nothing stays."""
        return min(self.max_resident_bytes, self.max_tenant_resident_bytes)


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How much memory is shared with clients of this machine.

    Attributes:
        max_shared_bytes: bytes of all regions; 0 shares none. One stream may have half of it.
    """

    max_shared_bytes: int = 2 << 30

    def __post_init__(self) -> None:
        if self.max_shared_bytes < 0:
            raise ValueError(f"max_shared_bytes must be at least 0; given {self.max_shared_bytes}")


@dataclass(frozen=True, kw_only=True)
class Waking:
    """What the server does between two calls.

    Attributes:
        stay_awake: seconds for which it waits awake for the next small call of a lone caller, if the
            last ones came as soon: each is answered sooner, and a core is busy meanwhile. 0 sleeps.
    """

    stay_awake: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.stay_awake <= 1:
            raise ValueError(f"stay_awake must be in 0..1; given {self.stay_awake}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    listen: Listen = field(default_factory=Listen)
    scrape: Scrape = field(default_factory=Scrape)
    device: Device = field(default_factory=Device)
    memory: Memory = field(default_factory=Memory)
    limits: Limits = field(default_factory=Limits)
    residence: Residence = field(default_factory=Residence)
    sharing: Sharing = field(default_factory=Sharing)
    batch: BatchLimits = field(default_factory=BatchLimits)
    waking: Waking = field(default_factory=Waking)
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
