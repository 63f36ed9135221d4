"""The server, read top to bottom: build the parts, serve, drain, stop."""

import asyncio
import gc
import logging
import signal

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lossserver.admit import Admission
from lossserver.config import Config, Device, Listen, is_loopback
from lossserver.losses.focal import FocalLoss
from lossserver.service import NAME, LossService
from lossserver.worker import Worker

log = logging.getLogger("lossserver")

#: Seconds that whoever is still connected has to leave once no call is open.
FAREWELL = 0.5

SERVING = health_pb2.HealthCheckResponse.SERVING


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, finish what is in flight, and return; at a second one, at once.

    Raises:
        ValueError: the device is not there, or the address may not be listened on.
        OSError: the address cannot be bound.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    at_once = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _set_next, stop, at_once)

    worker = Worker(open_device(config.device), config.batch, loop)
    admission = Admission(config.limits)
    server = grpc.aio.server(
        options=[
            # Above our own limit, so that it is our own error, with details, that says so.
            ("grpc.max_receive_message_length", 2 * config.limits.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    service = LossService(worker, admission, config.limits)
    server.add_generic_rpc_handlers((service.handler(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection(
        (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    port = bind(server, config.listen)

    worker.start()
    warm(worker.device)
    await server.start()
    for name in ("", NAME):
        await healthy.set(name, SERVING)
    # torch is a million objects that will never be garbage; looking through them again and again
    # held up a call for 0.15 s now and then.
    gc.collect()
    gc.freeze()
    log.info("serving on %s:%d device=%s", config.listen.host, port, worker.device)

    await stop.wait()
    log.info("draining timeout=%s", config.ending.drain_timeout)
    await healthy.enter_graceful_shutdown()
    admission.draining = True
    worker.hurry()
    await drain(server, admission, at_once, config.ending.drain_timeout)
    worker.stop()
    log.info("stopped")


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
    ends = [asyncio.create_task(one) for one in (admission.empty(), at_once.wait())]
    await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in ends:
        task.cancel()
    await server.stop(0 if at_once.is_set() else FAREWELL)
    await stopping


def _set_next(first: asyncio.Event, second: asyncio.Event) -> None:
    (second if first.is_set() else first).set()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether gRPC logs more than that a reply could not be sent: its caller had gone."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


def bind(server: grpc.aio.Server, listen: Listen) -> int:
    """Bind the server; its port, which is a free one if 0 was asked for.

    Raises:
        ValueError: the address is open to other machines and that was not allowed.
        OSError: it cannot be bound.
    """
    if not listen.insecure and not is_loopback(listen.host):
        raise ValueError(
            f"host {listen.host} is open to other machines, and without TLS whoever reaches the "
            "server can use it; say --insecure if that is meant, or --host 127.0.0.1"
        )
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    try:
        return server.add_insecure_port(f"{host}:{listen.port}")
    except RuntimeError:
        raise OSError(
            f"cannot listen on {host}:{listen.port}: is another server there? "
            "--port 0 takes a free port"
        ) from None


def warm(device: torch.device) -> None:
    """Make torch load what the first call would wait for, half a second of it."""
    scores = torch.zeros(2, 2, device=device, requires_grad=True)
    loss = FocalLoss().formula(scores, torch.zeros(2, dtype=torch.long, device=device))
    torch.autograd.grad(loss, scores, torch.ones_like(loss))


def open_device(config: Device) -> torch.device:
    """The device asked for, after torch has been told its threads.

    Raises:
        ValueError: it is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    name = config.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that torch finds here; given {name!r}") from error
    return device
