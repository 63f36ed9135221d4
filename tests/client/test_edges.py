"""What a client promises at its edges: futures, generators, limits, empty tensors, hung servers."""

import concurrent.futures
import signal
import sys
import threading

import numpy as np
import pytest

import lossclient
from tests.conftest import PATIENCE

L1 = {"type": "L1Loss"}
ZERO = np.zeros(4, np.float32)
ONE = np.ones(4, np.float32)
WIDE = np.ones((100, 250), np.float32)
LARGE = np.zeros(8 << 20, np.float32)


@pytest.fixture
def halted(serve):
    """Two servers, and a client of both whose home stands still."""
    servers = [serve("--threads=1"), serve("--threads=1")]
    with lossclient.connect([one.target for one in servers]) as client:
        client.compute(L1, ONE, ZERO)
        home = client.transport.first().target
        stopped = next(one for one in servers if one.target == home)
        stopped.process.send_signal(signal.SIGSTOP)
        yield client
        stopped.process.send_signal(signal.SIGCONT)


def test_names_of_wanted_gradients_may_come_from_a_generator(client):
    """They are looked at once, also where the call is written in the long way."""
    parts = {"a": L1}

    found = client.compute(
        {"type": "Sum", "parts": parts}, {"a": ONE}, {"a": ZERO}, wrt=(name for name in ["pred"])
    )

    assert found.grad["a"].tolist() == [0.25] * 4


def test_a_cancelled_future_ends_a_wait(server):
    """concurrent.futures.wait() and as_completed() wait until they are told."""
    with lossclient.connect(server.target) as client:
        futures = [client.submit(L1, ONE, ZERO) for _ in range(8)]
        cancelled = [one.cancel() for one in futures]

        found = concurrent.futures.wait(futures, timeout=PATIENCE)

    assert not found.not_done
    assert [one.cancelled() for one in futures] == cancelled


def test_a_future_does_not_keep_what_was_sent(client):
    """Whoever keeps futures for their results has no copy of each call besides."""
    future = client.submit(L1, LARGE, LARGE)
    future.result(PATIENCE)

    assert future._parts.size == 0


def test_a_callback_may_compute(client):
    """It is called by the thread that reads answers, which must not wait for one of its own."""
    losses, over = [], threading.Event()

    def then(_):
        try:
            more = client.compute_many([(L1, 2 * ONE, ZERO)], timeout=PATIENCE)
            losses.extend([client.compute(L1, ONE, ZERO, timeout=PATIENCE), *more])
        finally:
            over.set()

    client.submit(L1, ONE, ZERO).add_done_callback(then)

    assert over.wait(PATIENCE)
    assert [one.loss for one in losses] == [1.0, 2.0]


def test_a_timeout_of_years_leaves_others_theirs(serve):
    """It is none; the thread that ends what is late must go on."""
    server = serve("--threads=1")
    with lossclient.connect(server.target) as client:
        client.submit(L1, ONE, ZERO, timeout=sys.maxsize).result(PATIENCE)
        server.process.send_signal(signal.SIGSTOP)
        late = client.submit(L1, ONE, ZERO, timeout=0.2)

        with pytest.raises(lossclient.DeadlineError, match=r"within the timeout of 0\.2 s"):
            late.result(PATIENCE)
        server.process.send_signal(signal.SIGCONT)


def test_a_submitted_call_that_is_late_sends_the_next_one_elsewhere(halted):
    """As one that is waited for does."""
    with pytest.raises(lossclient.DeadlineError):
        halted.submit(L1, ONE, ZERO, timeout=0.2).result(PATIENCE)

    assert halted.submit(L1, ONE, ZERO).result(PATIENCE).loss == 1.0


def test_a_list_that_is_late_sends_the_next_one_elsewhere(halted):
    """Likewise."""
    with pytest.raises(lossclient.DeadlineError):
        halted.compute_many([(L1, ONE, ZERO)] * 2, timeout=0.2)

    assert [one.loss for one in halted.compute_many([(L1, ONE, ZERO)] * 2)] == [1.0, 1.0]


def test_answers_that_are_too_long_together_come_alone(server):
    """A limit is of a reply, and not of the message in which several of them come."""
    with lossclient.connect(server.target, max_message_bytes=150_000) as client:
        found = client.compute_many([(L1, WIDE, 0 * WIDE)] * 16)

    assert [one.loss for one in found] == [1.0] * 16


def test_calls_that_are_too_long_together_go_alone(serve):
    """Nor is the server's limit that of several calls."""
    with lossclient.connect(serve("--max-message-bytes=400000").target) as client:
        found = [client.submit(L1, WIDE, 0 * WIDE) for _ in range(16)]

        assert [one.result(PATIENCE).loss for one in found] == [1.0] * 16


@pytest.mark.parametrize("plane", ["inline", "stream", "pieces", "shared"])
def test_tensors_without_elements_go_every_way(server, plane):
    """No piece comes of them; so an image without objects has them in a head's call."""
    parts = {"type": "Sum", "parts": {"a": L1 | {"reduction": "sum"}, "b": L1}}
    empty = np.zeros((0, 4), np.float32)
    with lossclient.connect(server.target, plane=plane) as client:
        found = client.compute(parts, {"a": empty, "b": ONE}, {"a": empty, "b": ZERO})

    assert found.loss == 1.0
    assert found.grad["a"].shape == (0, 4)
    assert found.grad["b"].tolist() == [0.25] * 4


def test_a_bad_call_of_a_list_computed_here_is_the_only_one_that_fails(unused_port):
    """As with a server."""
    pytest.importorskip("lossserver")
    calls = [({"type": "Nope"}, ONE, ZERO), (L1, ONE, ZERO)]
    with lossclient.connect(f"127.0.0.1:{unused_port}", on_unavailable="local") as client:
        wrong, right = client.compute_many(calls, return_errors=True)

    assert isinstance(wrong, lossclient.UnknownLossError)
    assert right.loss == 1.0


def test_a_call_for_shared_memory_waits_for_no_others_timeout(serve):
    """While one thread asks a server that stands still for a region, another has its own time."""
    server = serve("--threads=1")
    with lossclient.connect(server.target) as client:
        client.compute(L1, LARGE[: 1 << 20], LARGE[: 1 << 20])
        server.process.send_signal(signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            patient = pool.submit(client.compute, L1, LARGE, LARGE, timeout=4.0)
            with pytest.raises(lossclient.DeadlineError):
                client.compute(L1, LARGE, LARGE, timeout=0.5)

            assert not patient.done()
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("pred", "said"),
    [(ONE.astype(complex), "^target: dtype must be one of"), (np.longdouble(1), "plain number")],
)
def test_what_does_not_travel_is_named(client, pred, said):
    """An array of another dtype by its input, and a number that no plain one holds."""
    with pytest.raises(lossclient.RequestError, match=said):
        client.compute(L1 | {"loss_weight": pred} if pred.ndim == 0 else L1, ONE, pred)
