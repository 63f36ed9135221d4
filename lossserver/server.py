"""The server, read top to bottom: build the parts, serve, drain, stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from dataclasses import replace

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lossserver.admit import Admission, Limits
from lossserver.compile import opened
from lossserver.config import Config, Listen, check_reach, is_loopback
from lossserver.device import open_devices, warm
from lossserver.direct import Direct
from lossserver.ending import Ending, drain, leave, stop, unless
from lossserver.front import Front
from lossserver.metrics import Metrics, exposed
from lossserver.pool import Pool
from lossserver.restart import Restart
from lossserver.service import NAME, LossService
from lossserver.unix import check_free, is_unix
from lossserver.warm import warm as warm_kernels

log = logging.getLogger("lossserver")

SERVING = health_pb2.HealthCheckResponse.SERVING


async def serve(config: Config) -> Restart | None:
    """Serve until SIGTERM or SIGINT, finish what is in flight, and return; at a second one, at once.

    When a device is lost it ends just so, and gives what it leaves to the server
    that must follow it in a fresh process; None if it was told to stop.

    Raises:
        ValueError: a device is not there, or the address may not be listened on.
        OSError: the address cannot be bound.
        LostAgainError: a device was lost too soon after the last time.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    ending = Ending()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.stop)

    before = Restart.told(os.environ)
    metrics = Metrics()
    for name in before.names():
        metrics.restarted(name)
    devices = open_devices(config.device)
    with contextlib.ExitStack() as around:
        kernels = around.enter_context(opened(config.fusing, metrics))
        pool = Pool(
            devices, config.batch, loop, metrics=metrics, kernels=kernels, on_lost=ending.lose
        )
        front = front_of(config, pool, metrics)
        around.callback(front.direct.close)
        server, healthy = offer(LossService(front), config.limits)
        listen = replace(config.listen, port=before.port or config.listen.port)
        port = bind(server, listen)
        around.enter_context(exposed(metrics, config.scrape, config.listen))

        pool.start()
        for device in devices:
            warm(device)
        if kernels is not None and config.fusing.warm:
            await unless(ending.near, warm_kernels, config.fusing.warm, kernels, devices)
        await begin(server, healthy)
        began = time.monotonic()
        log.info("serving on %s device=%s", listen.target(port), ",".join(map(str, devices)))

        await ending.near.wait()
        served = time.monotonic() - began
        ended = await end(server, healthy, front, ending, within=config.ending.drain_timeout)
    log.info("stopped")
    if ending.wished and not ended:
        leave()
    return None if ending.wished else before.after(str(ending.lost), port, served)


def front_of(config: Config, pool: Pool, metrics: Metrics) -> Front:
    """What all ways into a server share."""
    return Front(
        pool,
        Admission(config.limits),
        config.limits,
        metrics,
        config.residence,
        config.sharing,
        Direct(direct_line(config.listen), config.limits.max_bytes_in_flight),
        config.waking.stay_awake,
    )


async def end(
    server: grpc.aio.Server,
    healthy: health.aio.HealthServicer,
    front: Front,
    ending: Ending,
    *,
    within: float,
) -> bool:
    """Finish what is in flight, within so many seconds; whether all threads have ended."""
    until = time.monotonic() + within
    log.info("draining timeout=%s", within)
    await healthy.enter_graceful_shutdown()
    front.admission.drain()
    front.pool.hurry()
    await drain(server, front.admission, ending.at_once, within)
    return await stop(front.pool, ending.at_once, until)


def offer(
    service: LossService, limits: Limits
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A gRPC server of all that is served, not bound yet, and what tells of its health."""
    server = grpc.aio.server(
        options=[
            # Above our own limit, so that it is our own error, with details, that says so.
            ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            # Of a message that nobody has asked for yet gRPC holds 64 KiB. If it probes the line it
            # soon holds 30 MB and more; a message that was asked for comes as fast without.
            ("grpc.http2.bdp_probe", 0),
            # A caller whose machine is gone must not hold its calls for ever.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 60_000),
            # Callers ask in the same way whether we are there; more often than gRPC likes by itself.
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            # Nor one that is there and never reads its reply. Others open a new connection meanwhile,
            # and notice nothing.
            ("grpc.max_connection_age_ms", 3_600_000),
            ("grpc.max_connection_age_grace_ms", 600_000),
        ]
    )
    server.add_generic_rpc_handlers((service.handler(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection(
        (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    return server, healthy


async def begin(server: grpc.aio.Server, healthy: health.aio.HealthServicer) -> None:
    """Answer calls from now on, and say so."""
    await server.start()
    for name in ("", NAME):
        await healthy.set(name, SERVING)
    # torch is a million objects that will never be garbage; looking through them again and again
    # held up a call for 0.15 s now and then.
    gc.collect()
    gc.freeze()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC logs more than that a reply could not be sent: its caller had gone."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


def bind(server: grpc.aio.Server, listen: Listen) -> int:
    """Bind the server; its port, which is a free one if 0 was asked for. 0 of a Unix socket.

    Raises:
        ValueError: the address is open to other machines and that was not allowed.
        OSError: it cannot be bound.
    """
    if is_unix(listen.host):
        check_free(listen.host)
    else:
        check_reach(listen.host, listen)
    target = listen.target(listen.port)
    try:
        port = server.add_insecure_port(target)
    except RuntimeError:
        why = (
            "may a socket be made there?"
            if is_unix(listen.host)
            else "is another server there? --port 0 takes a free port"
        )
        raise OSError(f"cannot listen on {target}: {why}") from None
    return 0 if is_unix(listen.host) else port


def direct_line(listen: Listen) -> socket.socket | None:
    """Where direct connections come in; None if there are to be none.

    Raises:
        ValueError: the address is open to other machines and that was not allowed.
        OSError: it cannot be bound.
    """
    free = listen.direct_port < 0
    if not listen.direct_port or is_unix(listen.host) or (free and not is_loopback(listen.host)):
        return None
    check_reach(listen.host, listen)
    address = (listen.host, max(0, listen.direct_port))
    six = ":" in listen.host
    both = listen.host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            address, family=socket.AF_INET6 if six else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        target = listen.target(listen.direct_port)
        why = str(error.strerror).partition(" (while")[0]  # which would say the address again
        raise OSError(f"cannot listen on {target} (--direct-port): {why}") from None
