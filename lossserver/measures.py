"""The table of what the server counts: names, labels and meanings."""

from typing import Literal, get_args

from lossserver.tally import Row

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
    text="Calls computed together.",
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

SHARED_BYTES = Row(
    name="lossserver_shared_bytes",
    kind="gauge",
    text="Bytes of memory shared with clients of this machine, idle regions included.",
)

DIRECT_CONNECTIONS = Row(
    name="lossserver_direct_connections",
    kind="gauge",
    text="Direct connections: idle, of a call in pieces, or a stream's bypass.",
)

#: All of them, in the order of the page.
TABLE = (
    *(CALLS, STAGES, BATCH_JOBS, BATCH_ELEMENTS, BATCH_SECONDS, QUEUE_JOBS, QUEUE_ELEMENTS),
    *(CALLS_IN_FLIGHT, BYTES_IN_FLIGHT, SHED, CANCELLED, SPLITS, POISONED, RESTARTS, KERNELS),
    *(COMPILING, RESIDENT, RESIDENT_BYTES, SHARED_BYTES, DIRECT_CONNECTIONS),
)
