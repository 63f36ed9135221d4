"""The server, read top to bottom: build the parts, serve, drain, stop."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
from dataclasses import replace

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lossserver.admit import Admission, Limits
from lossserver.compile import Kernels
from lossserver.config import Config, Listen, check_reach
from lossserver.device import open_devices, warm
from lossserver.metrics import Metrics, exposed
from lossserver.pool import Pool
from lossserver.restart import Restart
from lossserver.service import NAME, LossService
from lossserver.warm import warm as warm_kernels

log = logging.getLogger("lossserver")

#: Seconds that whoever is still connected has to leave once no call is open.
FAREWELL = 0.5

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
    around = contextlib.ExitStack()
    kernels = None
    if config.fusing.compile == "auto":
        kernels = around.enter_context(Kernels(config.fusing, metrics))
    pool = Pool(devices, config.batch, loop, metrics=metrics, kernels=kernels, on_lost=ending.lose)
    admission = Admission(config.limits)
    service = LossService(pool, admission, config.limits, metrics)
    server, healthy = offer(service, config.limits)
    listen = replace(config.listen, port=before.port or config.listen.port)
    port = bind(server, listen)
    around.enter_context(exposed(metrics, config.scrape, config.listen))

    pool.start()
    for device in devices:
        warm(device)
    if kernels is not None and config.fusing.warm:
        warm_kernels(config.fusing.warm, kernels, devices)
    await begin(server, healthy)
    began = time.monotonic()
    log.info("serving on %s:%d device=%s", listen.host, port, ",".join(map(str, devices)))

    await ending.near.wait()
    served = time.monotonic() - began
    log.info("draining timeout=%s", config.ending.drain_timeout)
    await healthy.enter_graceful_shutdown()
    admission.draining = True
    pool.hurry()
    await drain(server, admission, ending.at_once, config.ending.drain_timeout)
    pool.stop()
    around.close()
    log.info("stopped")
    return None if ending.wished else before.after(str(ending.lost), port, served)


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


class Ending:
    """Whether the server is to end, and why.

    Attributes:
        near: set once it is to end.
        at_once: set once it is not to wait for calls in flight.
        wished: it was told to stop; then it does, whatever else happened.
        lost: the device that was lost first.
    """

    def __init__(self) -> None:
        self.near = asyncio.Event()
        self.at_once = asyncio.Event()
        self.wished = False
        self.lost: torch.device | None = None

    def stop(self) -> None:
        """Take note of a signal to stop."""
        if self.wished:
            self.at_once.set()
        self.wished = True
        self.near.set()

    def lose(self, device: torch.device) -> None:
        """Take note that a device is lost."""
        self.lost = self.lost or device
        self.near.set()


async def drain(
    server: grpc.aio.Server,
    admission: Admission,
    at_once: asyncio.Event,
    timeout: float,  # noqa: ASYNC109  (an option of the server, not of this function)
) -> None:
    """Stop the server once no call is open, `at_once` is set or `timeout` seconds are over.

    Not once nothing is open: whoever watches our health, as load balancers do,
    would hold us up until the time is over.
    """
    stopping = asyncio.create_task(server.stop(timeout))
    ends = [asyncio.create_task(one) for one in (_quiet(admission), at_once.wait())]
    await asyncio.wait([stopping, *ends], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    await server.stop(0 if at_once.is_set() else FAREWELL)
    await stopping


async def _quiet(admission: Admission) -> None:
    """Wait until no call is open, and none begins that gRPC accepted before it was told to stop."""
    while True:
        await admission.empty()
        await asyncio.sleep(FAREWELL)
        if not admission.calls:
            return


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC logs more than that a reply could not be sent: its caller had gone."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


def bind(server: grpc.aio.Server, listen: Listen) -> int:
    """Bind the server; its port, which is a free one if 0 was asked for.

    Raises:
        ValueError: the address is open to other machines and that was not allowed.
        OSError: it cannot be bound.
    """
    check_reach(listen.host, listen)
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    try:
        return server.add_insecure_port(f"{host}:{listen.port}")
    except RuntimeError:
        raise OSError(
            f"cannot listen on {host}:{listen.port}: is another server there? "
            "--port 0 takes a free port"
        ) from None
