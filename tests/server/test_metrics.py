"""lossserver.metrics: what is counted, and what Prometheus is told of it."""

import contextlib
import re
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import lossclient
import lossserver.losses  # noqa: F401  (fills the registry)
from lossclient.call import call_message
from lossserver.config import Listen, Scrape
from lossserver.measures import TABLE
from lossserver.metrics import Metrics, exposed
from losswire import frame
from tests.conftest import find_unused_port

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"
FOCAL = {"type": "FocalLoss"}


@pytest.fixture
def metrics():
    return Metrics()


def page(metrics):
    return samples(generate_latest(metrics.registry).decode())


def samples(text):
    """Each sample's value, by name and labels in order."""
    return {
        (sample.name.removeprefix("lossserver_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return samples(answer.read().decode())


def test_every_count_is_on_the_page(metrics):
    """Each method adds to what it says, and to nothing else."""
    metrics.called("FocalLoss", "OK")
    metrics.took(decode=0.0001, queue=0.001, compute=0.01, encode=0.0002, total=0.02)
    metrics.batched(jobs=17, elements=2560, seconds=0.01)
    metrics.shed("overloaded")
    metrics.cancelled("waiting")
    metrics.split()
    metrics.poisoned(2)
    metrics.restarted("cuda:0")
    metrics.kernel("compiled")
    metrics.compiled(1.5)
    metrics.resident("evicted")
    told = page(metrics)
    told = {key: value for key, value in told.items() if value and "bucket" not in key[0]}

    assert {
        key: value for key, value in told.items() if key[0][:7] not in ("process", "python_")
    } == {
        ("calls_total", "FocalLoss", "OK"): 1,
        **{
            ("stage_seconds_count", s): 1 for s in ("decode", "queue", "compute", "encode", "total")
        },
        ("stage_seconds_sum", "decode"): 0.0001,
        ("stage_seconds_sum", "queue"): 0.001,
        ("stage_seconds_sum", "compute"): 0.01,
        ("stage_seconds_sum", "encode"): 0.0002,
        ("stage_seconds_sum", "total"): 0.02,
        ("batch_jobs_count",): 1,
        ("batch_jobs_sum",): 17,
        ("batch_elements_count",): 1,
        ("batch_elements_sum",): 2560,
        ("batch_seconds_count",): 1,
        ("batch_seconds_sum",): 0.01,
        ("shed_total", "overloaded"): 1,
        ("cancelled_total", "waiting"): 1,
        ("splits_total",): 1,
        ("poisoned_total",): 2,
        ("device_restarts_total", "cuda:0"): 1,
        ("kernels_total", "compiled"): 1,
        ("compiling_seconds_total",): 1.5,
        ("resident_total", "evicted"): 1,
    }


def test_a_bucket_counts_all_up_to_its_bound(metrics):
    """A bound is in its bucket, and what exceeds all bounds is counted still."""
    for jobs in (1, 2, 3, 5000):
        metrics.batched(jobs, 1, 0.0)
    told = page(metrics)

    assert [told["batch_jobs_bucket", bound] for bound in ("1.0", "2.0", "4.0", "+Inf")] == [
        1,
        2,
        3,
        4,
    ]


def test_what_can_happen_is_there_at_zero(metrics):
    """An alert on a rate needs the series before the first event."""
    told = page(metrics)

    assert told["shed_total", "deadline_unreachable"] == 0
    assert told["kernels_total", "disagreed"] == 0
    assert told["splits_total",] == 0


def test_a_strangers_words_are_no_label(metrics):
    """Names that are not in the registry share one series."""
    for name in ("os.system", "FocalLos", "", "x" * 10_000):
        metrics.called(name, "NOT_FOUND")

    assert {key for key in page(metrics) if key[0] == "calls_total"} == {
        ("calls_total", "unknown", "NOT_FOUND")
    }


def test_a_gauge_is_asked_when_somebody_looks(metrics):
    """Several workers' queues are added up."""
    waiting = [3, 4]
    metrics.queue_jobs.watch(lambda: waiting[0])
    metrics.queue_jobs.watch(lambda: waiting[1])
    waiting[0] = 5

    assert page(metrics)["queue_jobs",] == 9


def test_any_thread_may_count(metrics):
    """Nothing is lost between eight threads."""

    def count():
        for _ in range(2000):
            metrics.batched(1, 1, 0.5)
            metrics.split()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = page(metrics)

    assert (told["splits_total",], told["batch_jobs_count",]) == (16000, 16000)


def test_the_page_has_every_row_of_the_table(metrics):
    """What the table has is registered, and the process's memory with it."""
    names = {family.name for family in metrics.registry.collect()}

    assert {row.name.removesuffix("_total") for row in TABLE} <= names
    assert "process_resident_memory_bytes" in names


def test_names_are_prometheus_own():
    """Counters end in _total, and what has a unit says it."""
    for row in TABLE:
        assert row.name.startswith("lossserver_")
        assert row.name.endswith("_total") == (row.kind == "counter")


def test_the_docs_have_the_table():
    """docs/operations.md has each row as the code has it."""
    lines = [
        f"| `{row.name}` | {row.kind} | "
        f"{', '.join(f'`{label}`' for label in row.labels)}"
        f"{': ' + ', '.join(row.words) if row.words else ''} | {row.text} |"
        for row in TABLE
    ]

    assert re.findall(r"^\| `lossserver_.*$", DOCS.read_text(), re.MULTILINE) == [
        line.replace("|  |", "| |") for line in lines
    ]


def test_two_servers_in_a_process_count_apart():
    """Each has a registry, and a page, of its own."""
    one, two = Metrics(), Metrics()
    ports = find_unused_port(), find_unused_port()
    one.split()
    with (
        exposed(one, Scrape(metrics_port=ports[0]), Listen()),
        exposed(two, Scrape(metrics_port=ports[1]), Listen()),
    ):
        told = [scraped(port)["splits_total",] for port in ports]

    assert told == [1, 0]


def test_no_page_beyond_this_machine_by_accident(metrics):
    """As the losses themselves: other machines only with --insecure."""
    scrape = Scrape(metrics_port=find_unused_port(), metrics_host="0.0.0.0")  # noqa: S104
    with (
        pytest.raises(ValueError, match=r"metrics_host 0\.0\.0\.0 is open .* --metrics-host 127"),
        exposed(metrics, scrape, Listen()),
    ):
        pass
    with exposed(metrics, scrape, Listen(insecure=True)):
        assert scraped(scrape.metrics_port)


def test_a_port_in_use_is_said(metrics):
    """The message names the address."""
    scrape = Scrape(metrics_port=find_unused_port())
    with (
        exposed(metrics, scrape, Listen()),
        pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{scrape.metrics_port}: "),
        exposed(metrics, scrape, Listen()),
    ):
        pass


def test_a_server_counts_its_calls(serve):
    """Answers, refusals and stages of a running server, and what it has in flight: nothing."""
    port = find_unused_port()
    server = serve("--metrics-port", str(port))
    with lossclient.connect(server.target) as client:
        for _ in range(3):
            client.compute(FOCAL, np.zeros((2, 3), np.float32), np.array([0, 1]))
        with pytest.raises(lossclient.UnknownLossError):
            client.compute({"type": "os.system"}, np.zeros(2), np.zeros(2))
        client.server()
    told = scraped(port)

    assert told["calls_total", "FocalLoss", "OK"] == 3
    assert told["calls_total", "unknown", "NOT_FOUND"] == 1
    assert told["stage_seconds_count", "total"] == told["batch_jobs_sum",] == 3
    assert told["stage_seconds_sum", "total"] > told["stage_seconds_sum", "compute"] > 0
    assert (told["calls_in_flight",], told["in_flight_bytes",], told["queue_jobs",]) == (0, 0, 0)


def test_what_grpc_holds_is_bounded(serve):
    """A flood of large calls of many connections takes memory by the limits, not by its own size."""
    server = serve("--max-message-bytes", f"{8 << 20}", "--max-bytes-in-flight", f"{16 << 20}")
    pred = np.zeros((1000, 1000), np.float32)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    message = frame.write(*call_message({"type": "L1Loss"}, pred, pred))
    with contextlib.ExitStack() as open_ones:
        codes = set()
        channels = [grpc.insecure_channel(server.target, options) for _ in range(4)]
        stubs = [
            open_ones.enter_context(channel).unary_unary("/losswire.v1.LossService/Compute")
            for channel in channels
        ]
        stubs[0](message, timeout=60)
        before = peak(server)
        calls = [stubs[i % 4].future(message, timeout=60) for i in range(80)]
        codes = {call.code() for call in calls}

    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(message) * 80 > 640e6
    assert peak(server) - before < 320e6


def peak(server):
    """Most bytes of memory that a server has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_a_connection_may_have_many_calls(serve):
    """All that the server lets in may come at once over one connection, and none fails."""
    server = serve()
    message = frame.write(*call_message({"type": "L1Loss"}, np.zeros(2), np.zeros(2)))
    with grpc.insecure_channel(server.target) as channel:
        stub = channel.unary_unary("/losswire.v1.LossService/Compute")
        calls = [stub.future(message, timeout=60) for _ in range(700)]

        assert {(call.code(), call.details()) for call in calls} == {(grpc.StatusCode.OK, "")}
