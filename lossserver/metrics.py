"""What the server counts: every name, its labels and its meaning in one table.

    metrics.called("FocalLoss", "OK")
    metrics.batched(jobs=17, elements=2560, seconds=0.0021)

A label is one of a fixed set of words, a device of ours, or a name in the
registry. What a stranger wrote never becomes one: each would stay for ever.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server

from lossserver.config import Listen, Scrape, check_reach
from lossserver.registry import LOSSES
from lossserver.tally import Counter, Gauge, Histogram, Row

log = logging.getLogger("lossserver")

Stage = Literal["decode", "queue", "compute", "encode", "total"]
Shed = Literal["deadline_passed", "deadline_unreachable", "overloaded"]
Where = Literal["waiting", "computing"]
Kernel = Literal["wanted", "compiled", "loaded", "failed", "disagreed", "evicted"]
Resident = Literal["put", "hit", "miss", "evicted", "expired"]

#: Of the latencies: from 50 µs, less than any call takes, to 30 s, the client's own timeout.
SECONDS = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)

CALLS = Row(
    name="lossserver_calls_total",
    kind="counter",
    text="Compute calls that ended; loss is unknown where the call did not get as far as to say.",
    labels=("loss", "status"),
)
STAGES = Row(
    name="lossserver_stage_seconds",
    kind="histogram",
    text="Time that calls answered with OK spent in each stage, and in all.",
    labels=("stage",),
    words=get_args(Stage),
    bounds=SECONDS,
)
BATCH_JOBS = Row(
    name="lossserver_batch_jobs",
    kind="histogram",
    text="Jobs computed together.",
    bounds=tuple(2**power for power in range(11)),
)
BATCH_ELEMENTS = Row(
    name="lossserver_batch_elements",
    kind="histogram",
    text="Elements of all inputs of a batch.",
    bounds=tuple(4**power for power in range(3, 15)),
)
BATCH_SECONDS = Row(
    name="lossserver_batch_seconds",
    kind="histogram",
    text="Time that a batch took on its device; the rate of the sum is how many devices are busy.",
    bounds=SECONDS,
)
QUEUE_JOBS = Row(name="lossserver_queue_jobs", kind="gauge", text="Jobs that wait for a device.")
QUEUE_ELEMENTS = Row(
    name="lossserver_queue_elements", kind="gauge", text="Elements of the jobs that wait."
)
CALLS_IN_FLIGHT = Row(
    name="lossserver_calls_in_flight",
    kind="gauge",
    text="Calls that were let in and are not answered yet.",
)
BYTES_IN_FLIGHT = Row(
    name="lossserver_in_flight_bytes", kind="gauge", text="Bytes of these calls' messages."
)
SHED = Row(
    name="lossserver_shed_total",
    kind="counter",
    text="Calls refused or given up before they were computed: their deadline had passed, could "
    "not be met, or too much was in flight.",
    labels=("reason",),
    words=get_args(Shed),
)
CANCELLED = Row(
    name="lossserver_cancelled_total",
    kind="counter",
    text="Calls whose caller went away, while they waited or while they were computed.",
    labels=("where",),
    words=get_args(Where),
)
SPLITS = Row(
    name="lossserver_splits_total",
    kind="counter",
    text="Batches that raised and were computed again in parts.",
)
POISONED = Row(
    name="lossserver_poisoned_total",
    kind="counter",
    text="Jobs that raised even alone: the guilty ones.",
)
RESTARTS = Row(
    name="lossserver_device_restarts_total",
    kind="counter",
    text="Times that a device died and its worker was started again.",
    labels=("device",),
)
KERNELS = Row(
    name="lossserver_kernels_total",
    kind="counter",
    text="What became of fused kernels: wanted, compiled here, loaded from disk, failed to compile, "
    "dropped as they disagreed with eager, evicted for others.",
    labels=("event",),
    words=get_args(Kernel),
)
COMPILING = Row(
    name="lossserver_compiling_seconds_total",
    kind="counter",
    text="Time spent compiling kernels.",
)
RESIDENT = Row(
    name="lossserver_resident_total",
    kind="counter",
    text="What became of tensors that stay: put here, found by a call or a question, not found, "
    "evicted for others, expired unused.",
    labels=("event",),
    words=get_args(Resident),
)
RESIDENT_BYTES = Row(
    name="lossserver_resident_bytes",
    kind="gauge",
    text="Bytes of the tensors that stay, and of what is remembered of them.",
)

#: All of them, in the order of the page.
TABLE = (
    *(CALLS, STAGES, BATCH_JOBS, BATCH_ELEMENTS, BATCH_SECONDS, QUEUE_JOBS, QUEUE_ELEMENTS),
    *(CALLS_IN_FLIGHT, BYTES_IN_FLIGHT, SHED, CANCELLED, SPLITS, POISONED, RESTARTS, KERNELS),
    *(COMPILING, RESIDENT, RESIDENT_BYTES),
)


class Metrics:
    """The counters of one server. Any thread may count.

    Attributes:
        registry: what to ask for all of them.
        queue_jobs, queue_elements, calls_in_flight, bytes_in_flight, resident_bytes: `watch(read)`
            adds a function to ask, from a thread of its own; what several say is added up.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = self._counter(CALLS)
        self._stages = self._histogram(STAGES)
        self._batch_jobs = self._histogram(BATCH_JOBS)
        self._batch_elements = self._histogram(BATCH_ELEMENTS)
        self._batch_seconds = self._histogram(BATCH_SECONDS)
        self.queue_jobs = self._gauge(QUEUE_JOBS)
        self.queue_elements = self._gauge(QUEUE_ELEMENTS)
        self.calls_in_flight = self._gauge(CALLS_IN_FLIGHT)
        self.bytes_in_flight = self._gauge(BYTES_IN_FLIGHT)
        self._shed = self._counter(SHED)
        self._cancelled = self._counter(CANCELLED)
        self._splits = self._counter(SPLITS)
        self._poisoned = self._counter(POISONED)
        self._restarts = self._counter(RESTARTS)
        self._kernels = self._counter(KERNELS)
        self._compiling = self._counter(COMPILING)
        self._resident = self._counter(RESIDENT)
        self.resident_bytes = self._gauge(RESIDENT_BYTES)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def called(self, loss: str, status: str) -> None:
        """A call of this loss (empty if it is not known) ended with this status."""
        self._calls.add(loss if loss in LOSSES else "unknown", status)

    def took(
        self, *, decode: float, queue: float, compute: float, encode: float, total: float
    ) -> None:
        """A call that was answered spent these seconds in its stages, and in all."""
        observe = self._stages.observe
        observe(decode, "decode")
        observe(queue, "queue")
        observe(compute, "compute")
        observe(encode, "encode")
        observe(total, "total")

    def batched(self, jobs: int, elements: int, seconds: float) -> None:
        """A batch of so many jobs and elements was computed in so many seconds."""
        self._batch_jobs.observe(jobs)
        self._batch_elements.observe(elements)
        self._batch_seconds.observe(seconds)

    def shed(self, reason: Shed) -> None:
        """A call was refused or given up before it was computed."""
        self._shed.add(reason)

    def cancelled(self, where: Where) -> None:
        """A call's caller went away."""
        self._cancelled.add(where)

    def split(self) -> None:
        """A batch raised and is computed again in parts."""
        self._splits.add()

    def poisoned(self, jobs: int = 1) -> None:
        """Jobs raised even alone."""
        self._poisoned.add(by=jobs)

    def restarted(self, device: str) -> None:
        """A device, such as "cuda:0", died and its worker was started again."""
        self._restarts.add(device)

    def kernel(self, event: Kernel) -> None:
        """Something became of a fused kernel."""
        self._kernels.add(event)

    def compiled(self, seconds: float) -> None:
        """A kernel took so long to compile, whatever came of it."""
        self._compiling.add(by=seconds)

    def resident(self, event: Resident) -> None:
        """Something became of a tensor that stays."""
        self._resident.add(event)

    def _counter(self, row: Row) -> Counter:
        counter = Counter(row)
        self.registry.register(counter)
        return counter

    def _gauge(self, row: Row) -> Gauge:
        gauge = Gauge(row)
        self.registry.register(gauge)
        return gauge

    def _histogram(self, row: Row) -> Histogram:
        histogram = Histogram(row)
        self.registry.register(histogram)
        return histogram


@contextlib.contextmanager
def exposed(metrics: Metrics, scrape: Scrape, listen: Listen) -> Iterator[None]:
    """Serve the metrics over HTTP, if a port was given, for as long as the context lasts.

    Raises:
        ValueError: the address is open to other machines and that was not allowed.
        OSError: it cannot be bound.
    """
    if not scrape.metrics_port:
        yield
        return
    host, port = scrape.metrics_host, scrape.metrics_port
    check_reach(host, listen, "metrics_host")
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise OSError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from None
    log.info("metrics on http://%s:%d/metrics", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
