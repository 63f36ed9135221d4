"""The client's bypass: when it is used, when it is not, and what a server may do wrong by it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

import lossclient
from lossclient import carrier
from lossclient.bypass import offered as offered_by
from lossclient.stream import Stream
from losswire import offer
from losswire.bypass import LONGEST
from losswire.offer import Offer
from losswire.v1 import loss_pb2 as pb
from tests.client.streams import bypass_of
from tests.conftest import PATIENCE
from tests.wire.offers import offered

pytestmark = pytest.mark.skipif(not offer.AVAILABLE, reason="needs Linux")

L1 = {"type": "L1Loss"}
ZERO = np.zeros(4, np.float32)
ONE = np.ones(4, np.float32)


@pytest.fixture
def connected(server):
    """A client whose calls go by the bypass."""
    with lossclient.connect(server.target) as client:
        client.compute(L1, ONE, ZERO)
        bypass_of(client)
        yield client


def test_all_ways_to_call_go_by_the_bypass(connected, monkeypatch):
    """compute, submit, compute_many, and large calls through shared memory."""
    sent = []
    send = type(bypass_of(connected)).send
    monkeypatch.setattr(
        type(bypass_of(connected)), "send", lambda self, them: sent.append(1) or send(self, them)
    )
    large = np.ones((1 << 19, 1), np.float32)
    ways = [
        lambda: connected.compute(L1, ONE, ZERO),
        lambda: connected.submit(L1, ONE, ZERO).result(),
        lambda: connected.compute_many([(L1, ONE, ZERO)] * 3)[2],
        lambda: connected.compute(L1, large, np.zeros_like(large)),
    ]
    for way in ways:
        before = len(sent)
        assert way().loss == 1.0
        assert len(sent) > before


def test_results_are_as_by_grpc(server):
    """The same values, dtypes and flags."""
    pred = np.random.default_rng(0).standard_normal((64, 80), np.float32)
    found = []
    for plane in ("stream", "inline"):
        with lossclient.connect(server.target, plane=plane) as client:
            client.compute(L1, ONE, ZERO)
            if plane == "stream":
                bypass_of(client)
            found.append(client.compute(L1, pred, pred + 1))

    ours, theirs = found
    assert ours.loss == theirs.loss
    np.testing.assert_array_equal(ours.grad, theirs.grad)
    assert (ours.grad.dtype, ours.grad.flags.writeable) == (
        theirs.grad.dtype,
        theirs.grad.flags.writeable,
    )


@pytest.mark.parametrize("size", [LONGEST // 8 + 1, LONGEST // 2], ids=["call", "answer"])
def test_what_is_too_long_goes_by_grpc(server, size):
    """A call, and an answer, that no bypass carries; what comes after goes by it again."""
    with lossclient.connect(server.target, plane="stream") as client:
        client.compute(L1, ONE, ZERO)
        bypass_of(client)
        pred = np.ones(size, np.float32)
        for _ in range(2):
            assert client.compute(L1, pred, np.zeros_like(pred)).loss == pytest.approx(1.0)
            assert client.compute(L1, 3 * ONE, ZERO).loss == 3.0


def test_a_server_elsewhere_is_asked_by_grpc(serve, tmp_path, monkeypatch):
    """Its name leads nowhere, as from another machine, and it has no other port."""
    server = serve("--direct-port", "0")
    monkeypatch.setattr(offer, "FOLDER", tmp_path)
    with lossclient.connect(server.target) as client:
        found = [client.compute(L1, i * ONE, ZERO).loss for i in range(20)]
        line = client.transport.targets.order()[0].line

        assert found == [float(i) for i in range(20)]
        assert line.keep(Stream, Stream)._carrier._bypass is None


def test_more_than_the_line_takes_waits(serve):
    """A server that stands still while a hundred threads send 20 MB; then all are answered."""
    server = serve()
    pred = np.ones(50_000, np.float32)
    with lossclient.connect(server.target) as client:
        client.compute(L1, ONE, ZERO)
        bypass_of(client)
        os.kill(server.process.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as pool:
            futures = list(pool.map(lambda i: client.submit(L1, pred * i, 0 * pred), range(100)))
        os.kill(server.process.pid, signal.SIGCONT)

        assert [one.result().loss for one in futures] == pytest.approx(
            [float(i) for i in range(100)]
        )


def test_many_threads_lose_nothing(connected):
    """Each sends by itself, at the same time as others."""

    def one_after_another(i):
        return [connected.compute(L1, ONE * (1000 * i + j), ZERO).loss for j in range(100)]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(one_after_another, range(16)))

    assert found == [[1000.0 * i + j for j in range(100)] for i in range(16)]


@contextmanager
def saying(say):
    """The address of a server whose bypass says what `say` sends."""
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def talk(_, __):
        with theirs:
            offered = Offer(os.dup(theirs.fileno()))
        yield pb.ComputeStreamResponse(bypass=offered.name).SerializeToString()
        offered.listening.setblocking(True)
        offered.hand_out()
        offered.end()
        say(ours)
        over.wait(PATIENCE)

    handlers = grpc.method_handlers_generic_handler(
        "losswire.v1.LossService", {"ComputeStream": grpc.stream_stream_rpc_method_handler(talk)}
    )
    with ours, ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handlers,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        over.set()
        server.stop(None).wait()


NONSENSE = {
    "no message": lambda line: line.sendall(b"\x02" + bytes(7) + b"\x0a\x7f"),
    "a length above the longest": lambda line: line.sendall(b"\xff" * 8),
}


@pytest.mark.parametrize("say", NONSENSE.values(), ids=NONSENSE)
def test_a_server_that_talks_nonsense_is_an_error(say):
    """And none that is worth another attempt."""
    wrong = pytest.raises(lossclient.InternalError, match="must send losswire")
    with saying(say) as target, lossclient.connect(target) as client, wrong:
        client.compute(L1, ONE, ZERO)


def test_a_server_that_hangs_up_the_bypass_alone_holds_nobody_up(monkeypatch):
    """The stream is over then, though gRPC does not say so."""
    monkeypatch.setattr(carrier, "BOTH", 0.1)
    gone = pytest.raises(lossclient.UnreachableError)
    with (
        saying(socket.socket.close) as target,
        lossclient.connect(target, on_unavailable="raise") as client,
        gone,
    ):
        client.compute(L1, ONE, ZERO, timeout=PATIENCE)


def meet(client):
    """Have all that was sent be there, though nothing is computed yet: of this call nothing is."""
    with pytest.raises(lossclient.UnknownLossError):
        client.compute({"type": "Nope"}, ONE, ZERO)


def waiting(client, count, **more):
    """Calls that have gone by the bypass and wait there for company: the loss of each is its number."""
    meet(client)
    bypass_of(client)
    pred = np.ones(20_000, np.float32)
    futures = [client.submit(L1, pred * i, 0 * pred, **more) for i in range(count)]
    meet(client)
    return futures


def test_a_killed_server_is_gone_at_once(serve):
    """Its calls end with its process, and do not wait for their timeouts."""
    server = serve("--max-wait", "50")
    with lossclient.connect(server.target, on_unavailable="raise") as client:
        futures = waiting(client, 3, timeout=600)
        server.stop(signal.SIGKILL)

        for one in futures:
            assert isinstance(one.exception(PATIENCE), lossclient.UnreachableError)


def test_a_stopped_server_answers_what_it_has(serve):
    """Answers that come by the bypass while gRPC says that the stream is over are not lost."""
    server = serve("--max-wait", "50")
    with lossclient.connect(server.target, on_unavailable="raise") as client:
        futures = waiting(client, 20)
        server.stop(signal.SIGTERM)

        found = [one.result(PATIENCE).loss for one in futures]
        assert found == pytest.approx([float(i) for i in range(20)])


def test_a_client_that_is_closed_ends_its_calls(serve):
    """At once, with CancelledError; and the server is told."""
    server = serve("--max-wait", "50")
    client = lossclient.connect(server.target)
    (future,) = waiting(client, 1)
    client.close()

    assert isinstance(future.exception(PATIENCE), lossclient.CancelledError)
    server.find(re.compile("status=CANCELLED"))


CANCELS = """
import os, sys
import numpy as np, lossclient
client = lossclient.connect(sys.argv[1])
pred = np.ones(20_000, np.float32)
client.submit(dict(type="Nope"), pred, pred).exception()
futures = [client.submit(dict(type="L1Loss"), pred * i, 0 * pred) for i in range(5)]
child = os.fork()
if not child:
    for one in futures:
        one.cancel()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert [round(one.result(60).loss) for one in futures] == list(range(5))
"""


def test_a_forked_child_says_nothing_by_its_parents_bypass(serve):
    """What it cancels of its parent's calls is its own affair."""
    server = serve("--max-wait", "3")
    subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-c", CANCELS, server.target], timeout=PATIENCE, check=True
    )


def test_a_descriptor_that_is_no_socket_is_let_go(tmp_path):
    """A server that hands out something else is asked by gRPC."""
    with (tmp_path / "file").open("w") as file:
        with offered(file.fileno()) as name, pytest.raises(OSError, match="socket"):
            offered_by(name)

        assert opened(tmp_path / "file") == 1


def opened(path):
    """How many descriptors of this process lead to a file."""
    found = [own for own in Path("/proc/self/fd").iterdir() if own.is_symlink()]
    return sum(os.path.realpath(own) == str(path) for own in found)
