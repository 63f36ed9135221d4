"""Many calls over one stream: whose answer is whose, and what is left when it breaks."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import lossclient
from lossclient import carrier
from lossclient.call import call_message
from lossclient.many import Finish, together
from losswire import saying
from tests.client.streams import line_of, stream_of
from tests.conftest import PATIENCE

L1 = {"type": "L1Loss"}
ZERO = np.zeros(4, np.float32)
ONE = np.ones(4, np.float32)
LISTED = saying.calls


def ours():
    """The threads of streams there are."""
    return [one for one in threading.enumerate() if one.name == "lossclient-stream"]


WAYS = {
    "by the bypass": lambda _: None,
    "over TCP": lambda patch: patch.setattr(carrier, "offered", nowhere),
    "by gRPC": lambda patch: patch.setattr(carrier.Carrier, "_listen_beside", lambda *_: None),
    "to a server without lists": lambda patch: patch.setattr(
        carrier.Carrier, "takes_lists", property(lambda _: False, lambda *_: None), raising=False
    ),
}


def nowhere(name):
    """What becomes of a name that a server on another machine has said."""
    raise FileNotFoundError(name)


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def connect(request, monkeypatch):
    """Connects clients, and closes them."""
    request.param(monkeypatch)
    opened = []

    def connected(target, **options):
        opened.append(lossclient.connect(target, **options))
        return opened[-1]

    yield connected
    for client in opened:
        client.close()


def test_many_threads_share_one_stream(server, connect):
    """Each gets the answers to its own calls."""
    client = connect(server.target)
    others = ours()  # some of which are about to end

    def one_after_another(i):
        return [client.compute(L1, ONE * (100 * i + j), ZERO).loss for j in range(20)]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one_after_another, range(16)))

    assert found == [[100.0 * i + j for j in range(20)] for i in range(16)]
    assert [one for one in ours() if one not in others] == [stream_of(client).thread]


def test_many_submitted_calls_need_no_threads(server, connect):
    """Hundreds in flight, each with the answer that is its own."""
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)
    before = threading.active_count()
    futures = [client.submit(L1, ONE * i, ZERO) for i in range(500)]
    during = threading.active_count()

    assert [future.result().loss for future in futures] == [float(i) for i in range(500)]
    assert during <= before + 1  # which looks after their timeouts


def test_a_list_of_calls_has_its_answers_in_order(server, connect):
    """Given as tuples, or as dicts of the arguments of compute."""
    client = connect(server.target)
    calls = [(L1, ONE * i, ZERO) for i in range(100)]
    calls.append({"cfg": L1, "pred": ONE, "target": ZERO, "reduction_override": "sum", "wrt": ()})
    found = client.compute_many(calls)

    assert [result.loss for result in found] == [*map(float, range(100)), 4.0]
    assert found[0].grad.shape == (4,)
    assert found[-1].grad is None
    assert client.compute_many([]) == []


def test_a_list_goes_as_a_list_once_the_server_has_said_so(server, connect, monkeypatch):
    """And in entries of its own each call does before, to any server."""
    sent = []
    monkeypatch.setattr(saying, "calls", lambda *some: sent.append(len(some[2])) or LISTED(*some))
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)  # before its answer comes what the server says of itself
    calls = [(L1, ONE * i, ZERO) for i in range(100)]
    calls[50] = (L1, ONE * 50, ZERO, ONE)
    found = client.compute_many(calls)

    assert [result.loss for result in found] == [*map(float, range(100))]
    assert sent == ([50, 13, 36] if stream_of(client)._carrier.takes_lists else [])


def test_gradients_of_a_list_may_be_written_to(server, connect):
    """Each is an array of its own."""
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)
    first, second = client.compute_many([(L1, ONE, ZERO), (L1, -ONE, ZERO)])
    first.grad[:] = 7

    assert second.grad.tolist() == [-0.25] * 4


def test_a_list_may_have_large_calls(server, connect):
    """They go another way each, and stand where they stood."""
    client = connect(server.target)
    large = np.ones(200_000, np.float32)
    found = client.compute_many([(L1, ONE, ZERO), (L1, large * 3, large), (L1, 5 * ONE, ZERO)])

    assert [result.loss for result in found] == [1.0, 2.0, 5.0]


def test_an_error_in_a_list_is_its_calls(server, connect):
    """It is raised when all have ended, or stands in the list; others have their results."""
    client = connect(server.target)
    calls = [(L1, ONE, ZERO), ({"type": "Nope"}, ONE, ZERO), (L1, 2 * ONE, ZERO)]
    with pytest.raises(lossclient.UnknownLossError) as raised:
        client.compute_many(calls)
    found = client.compute_many(calls, return_errors=True)

    assert raised.value.__notes__ == ["of call 1 of 3"]
    assert [found[0].loss, found[2].loss] == [1.0, 2.0]
    assert isinstance(found[1], lossclient.UnknownLossError)


def test_an_error_of_one_of_many_calls_is_its_own(server, connect):
    """One bad label among calls that are otherwise alike."""
    client = connect(server.target)
    focal = {"type": "FocalLoss"}
    pred = np.ones((2, 3), np.float32)
    labels = [np.array([0, 9 if i == 17 else i % 3]) for i in range(40)]
    found = client.compute_many(
        [(focal, pred * i, own) for i, own in enumerate(labels)], return_errors=True
    )
    error = found.pop(17)
    del labels[17]
    alone = [client.compute(focal, pred * (i + (i > 16)), own) for i, own in enumerate(labels)]

    assert isinstance(error, lossclient.TensorError)
    assert [one.loss for one in found] == pytest.approx([one.loss for one in alone])
    for ours, theirs in zip(found, alone, strict=True):
        np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-6)


def test_two_clients_send_many_calls_at_once(server, connect):
    """Each has the answers to its own, however many of either's are one job."""
    clients = [connect(server.target) for _ in range(2)]
    ready = threading.Barrier(2)

    def send(which):
        ready.wait(PATIENCE)
        scale = 1000.0 * which
        found = []
        for _ in range(5):
            many = clients[which].compute_many([(L1, ONE * (scale + i), ZERO) for i in range(150)])
            found.append([one.loss for one in many])
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(send, range(2))

    assert first == [[float(i) for i in range(150)]] * 5
    assert second == [[1000.0 + i for i in range(150)]] * 5


def test_a_list_of_equal_calls_with_other_ones_between(server, connect):
    """Runs of equal shape, broken by another loss and by another shape."""
    client = connect(server.target)
    mse, wide = {"type": "MSELoss"}, np.ones((3, 4), np.float32)
    calls = []
    for i in range(60):
        config = mse if i % 11 == 5 else L1
        calls.append(
            (config, (wide if i % 7 == 3 else ONE) * i, ZERO * wide if i % 7 == 3 else ZERO)
        )
    found = client.compute_many(calls)

    assert [one.loss for one in found] == [
        float(i * i) if i % 11 == 5 else float(i) for i in range(60)
    ]
    assert [one.grad.shape for one in found] == [call[1].shape for call in calls]


def test_a_call_that_is_cancelled_is_given_up_by_the_server(serve, connect):
    """And the future says so, whatever comes later."""
    server = serve("--max-wait", "50")
    client = connect(server.target)
    future = client.submit(L1, np.ones(20_000, np.float32), np.zeros(20_000, np.float32))
    client.submit({"type": "Nope"}, ONE, ZERO).exception()  # so the first one is in

    assert future.cancel()
    server.find(re.compile("status=CANCELLED"))
    assert future.cancelled()


def test_timeouts_pass_though_nobody_waits(serve, connect):
    """A server that stands still: each call ends in its own time, waited for or not."""
    server = serve()
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)
    os.kill(server.process.pid, signal.SIGSTOP)
    futures = [client.submit(L1, ONE, ZERO, timeout=seconds) for seconds in (90, 0.3, 0.2)]
    ended = threading.Event()
    futures[1].add_done_callback(lambda _: ended.set())
    many = [(L1, np.ones(20_000, np.float32), np.zeros(20_000, np.float32))] * 30

    assert ended.wait(PATIENCE)
    assert isinstance(futures[2].exception(), lossclient.DeadlineError)
    with pytest.raises(lossclient.DeadlineError, match=r"within the timeout of 0\.2 s"):
        client.compute_many(many, timeout=0.2)
    assert not futures[0].done()
    os.kill(server.process.pid, signal.SIGCONT)
    assert futures[0].result().loss == 1.0


def test_calls_of_a_broken_stream_are_sent_again(serve, connect, unused_port):
    """The server is killed with calls in flight; the next one at its address answers them all."""
    flags = f"--port={unused_port}"
    killed = serve(flags, "--max-wait", "50")
    client = connect(killed.target)
    client.submit({"type": "Nope"}, ONE, ZERO).exception()  # the stream is there
    large, zeros = np.ones(20_000, np.float32), np.zeros(20_000, np.float32)
    futures = [client.submit(L1, large * i, zeros) for i in range(8)]
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(client.compute, L1, large * 9, zeros)
        listed = pool.submit(client.compute_many, [(L1, large * i, zeros) for i in (10, 11)])
        with pytest.raises(lossclient.UnknownLossError):
            client.compute({"type": "Nope"}, ONE, ZERO)  # after those that were sent before it
        killed.stop(signal.SIGKILL)
        serve(flags)

        assert [future.result().loss for future in futures] == [float(i) for i in range(8)]
        assert waiting.result().loss == 9.0
        assert [result.loss for result in listed.result()] == [10.0, 11.0]


def test_a_server_without_streams_is_asked_call_by_call(server, connect):
    """compute, submit and compute_many: as if nothing was."""
    with grpc.insecure_channel(server.target) as onwards:
        compute = onwards.unary_unary("/losswire.v1.LossService/Compute")
        plain = grpc.unary_unary_rpc_method_handler(lambda message, _: compute(message, timeout=30))
        handlers = grpc.method_handlers_generic_handler(
            "losswire.v1.LossService", {"Compute": plain}
        )
        with ThreadPoolExecutor(4) as pool:
            old = grpc.server(pool)
            old.add_generic_rpc_handlers((handlers,))
            port = old.add_insecure_port("127.0.0.1:0")
            old.start()
            client = connect(f"127.0.0.1:{port}")
            found = [
                client.compute(L1, ONE, ZERO),
                client.submit(L1, 2 * ONE, ZERO).result(),
                *client.compute_many([(L1, 3 * ONE, ZERO), (L1, 4 * ONE, ZERO)]),
            ]
            old.stop(None).wait()

    assert [result.loss for result in found] == [1.0, 2.0, 3.0, 4.0]


def test_a_stream_that_ended_for_want_of_use_is_no_error(server, connect):
    """The next call opens another, with no wait between attempts."""
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)
    before = stream_of(client)
    before._outgoing.end()  # there is no more to send, so the server ends it, too
    for one in ours():
        if one is before.thread:
            one.join(PATIENCE)

    assert client.compute(L1, ONE, ZERO).loss == 1.0
    assert stream_of(client) is not before
    assert client.transport.tally["repeated"] == 0


def test_streams_leave_no_thread(server, connect):
    """Each that ends takes its threads with it. (test_leaks.py has a thousand lost connections.)"""
    others = ours()  # of clients that stay open, such as the fixture's
    client = connect(server.target)
    client.compute(L1, ONE, ZERO)
    before = threading.active_count()
    for _ in range(100):
        line_of(client).forget(stream_of(client))
        client.compute(L1, ONE, ZERO)
    for one in ours():
        if one not in [*others, stream_of(client).thread]:
            one.join(PATIENCE)

    assert threading.active_count() <= before + 2  # gRPC's own end a moment later


def test_a_client_that_is_forgotten_leaves_no_thread(server):
    """Its stream ends with it, though nobody has closed it."""
    client = lossclient.connect(server.target)
    client.compute(L1, ONE, ZERO)
    thread = stream_of(client).thread
    del client
    gc.collect()
    thread.join(PATIENCE)

    assert not thread.is_alive()


FORKS = """
import os, sys
import numpy as np, lossclient
L1, ONE, ZERO = dict(type="L1Loss"), np.ones(4, np.float32), np.zeros(4, np.float32)
client = lossclient.connect(sys.argv[1])
for round in range(5):
    inside = [client.submit(L1, ONE * i, ZERO) for i in range(20)]
    child = os.fork()
    if not child:
        found = [result.loss for result in client.compute_many([(L1, ONE, ZERO)] * 3)]
        os._exit(0 if found == [1.0] * 3 and client.compute(L1, ONE, ZERO).loss == 1.0 else 1)
    assert [future.result().loss for future in inside] == list(map(float, range(20)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_forked_process_has_a_stream_of_its_own(server):
    """Forked with calls in flight: parent and child both get what they asked for."""
    done = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-c", FORKS, server.target],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()


LEAVES = """
import sys
import numpy as np, lossclient
client = lossclient.connect(sys.argv[1])
client.submit(dict(type="Nope"), np.ones(2), np.zeros(2)).exception()
client.submit(dict(type="L1Loss"), np.ones(20_000, np.float32), np.zeros(20_000, np.float32), timeout=600)
"""


def test_a_process_may_end_with_calls_in_flight(serve):
    """It waits for nobody, and says nothing."""
    server = serve("--max-wait", "50")
    done = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-c", LEAVES, server.target],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, b"")


FORKS_AT_ONCE = """
import os, sys, time
import numpy as np, lossclient
from lossclient import forking
client = lossclient.connect(sys.argv[1])
future = client.submit(dict(type="L1Loss"), np.ones(4, np.float32), np.zeros(4, np.float32))
child = os.fork()
if not child:
    os._exit(0 if time.monotonic() - forking._started >= forking.SETTLED else 1)
assert future.result().loss == 1.0
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_a_fork_waits_for_a_stream_that_opens(server):
    """Whatever gRPC has registered for forks before; else some children never get an answer."""
    subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-c", FORKS_AT_ONCE, server.target], timeout=PATIENCE, check=True
    )


def test_a_list_that_is_interrupted_harms_nobody_else(server, connect):
    """However long: what is left of it is given up, and the stream goes on."""
    client = connect(server.target)
    line, stream = line_of(client), stream_of(client)

    def interrupted(_):
        raise KeyboardInterrupt

    calls = [call_message(L1, ONE, ZERO)] * 4500
    with pytest.raises(KeyboardInterrupt):
        together(calls, line, PATIENCE, Finish(interrupted, interrupted))

    assert client.compute(L1, ONE, ZERO).loss == 1
    assert stream_of(client) is stream
    assert not len(stream._flying)
