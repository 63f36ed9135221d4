"""What a channel to a target is told, for each kind of target."""

import json
import re
import secrets
from typing import Any

#: Targets on this machine.
LOCAL = re.compile(r"(dns:/*)?localhost:|127\.|\[::1\]|unix:|ipv4:127\.|ipv6:(\[|%5B)::1")

#: Targets that may be several servers. gRPC connects to all of them, asks each for its health, and
#: sends each call to the next one that is well.
SEVERAL = re.compile(r"dns:|ipv[46]:.*,")
ROUND_ROBIN = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)


def options(target: str, max_message_bytes: int) -> list[tuple[str, Any]]:
    """Of a channel to this target, whose replies have at most so many bytes; -1 for no limit."""
    found: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # gRPC waits up to two minutes before it tries a lost server again; we ask sooner.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # Not a wait, but how long connecting may take at least, TLS included: so long does a
        # machine that is gone hold up a call.
        ("grpc.min_reconnect_backoff_ms", 1000),
        # A server that hangs, or a machine that is gone, closes no connection.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        # Channels of one process would share a connection, and what a server allows one.
        ("grpc.use_local_subchannel_pool", 1),
        # By a Unix socket all clients have one name, and would share what a server allows one.
        ("grpc.primary_user_agent", f"lossclient/{secrets.token_hex(16)}"),
        # No proxy stands between a machine and itself, whatever http_proxy says.
        ("grpc.enable_http_proxy", int(not LOCAL.match(target))),
    ]
    if SEVERAL.match(target):
        found.append(("grpc.service_config", ROUND_ROBIN))
        # A replica that is new is not found before the name is looked up again.
        found.append(("grpc.dns_min_time_between_resolutions_ms", 5000))
    return found
