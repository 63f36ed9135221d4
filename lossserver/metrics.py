"""What the server counts, by the table of measures.py.

    metrics.called("FocalLoss", "OK")
    metrics.batched(jobs=17, elements=2560, seconds=0.0021)

A label is one of a fixed set of words, a device of ours, or a name in the
registry. What a stranger wrote never becomes one: each would stay for ever.
"""

import contextlib
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, start_http_server

from lossserver import measures
from lossserver.config import Listen, Scrape, check_reach
from lossserver.measures import Kernel, Resident, Shed, Where
from lossserver.registry import LOSSES
from lossserver.tally import Counter, Gauge, Histogram, Row

log = logging.getLogger("lossserver")


class Metrics:
    """The counters of one server. Any thread may count.

    Attributes:
        registry: what to ask for all of them.
        queue_jobs, queue_elements, calls_in_flight, bytes_in_flight, resident_bytes,
            shared_bytes, direct_connections: `watch(read)` adds a function to ask, from a thread of its own; what several say is added up.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = self._counter(measures.CALLS)
        self._stages = self._histogram(measures.STAGES)
        self._batch_jobs = self._histogram(measures.BATCH_JOBS)
        self._batch_elements = self._histogram(measures.BATCH_ELEMENTS)
        self._batch_seconds = self._histogram(measures.BATCH_SECONDS)
        self.queue_jobs = self._gauge(measures.QUEUE_JOBS)
        self.queue_elements = self._gauge(measures.QUEUE_ELEMENTS)
        self.calls_in_flight = self._gauge(measures.CALLS_IN_FLIGHT)
        self.bytes_in_flight = self._gauge(measures.BYTES_IN_FLIGHT)
        self._shed = self._counter(measures.SHED)
        self._cancelled = self._counter(measures.CANCELLED)
        self._splits = self._counter(measures.SPLITS)
        self._poisoned = self._counter(measures.POISONED)
        self._restarts = self._counter(measures.RESTARTS)
        self._kernels = self._counter(measures.KERNELS)
        self._compiling = self._counter(measures.COMPILING)
        self._resident = self._counter(measures.RESIDENT)
        self.resident_bytes = self._gauge(measures.RESIDENT_BYTES)
        self.shared_bytes = self._gauge(measures.SHARED_BYTES)
        self.direct_connections = self._gauge(measures.DIRECT_CONNECTIONS)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def called(self, loss: str, status: str, calls: int = 1) -> None:
        """So many calls of this loss (empty if it is not known) ended with this status."""
        self._calls.add(loss if loss in LOSSES else "unknown", status, by=calls)

    def took(
        self,
        *,
        decode: float,
        queue: float,
        compute: float,
        encode: float,
        total: float,
        calls: int = 1,
    ) -> None:
        """So many calls that were answered spent these seconds each in its stages, and in all."""
        stages = {"decode": decode, "queue": queue, "compute": compute}
        for stage, seconds in {**stages, "encode": encode, "total": total}.items():
            self._stages.observe(seconds, stage, by=calls)

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
