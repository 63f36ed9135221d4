"""Direct connections, by our client: used again, replaced, or done without; and what breaks a call."""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import lossclient
from lossclient.call import call_message
from lossclient.direct import Connection
from lossclient.directly import directly, pieces
from lossclient.ended import UnservedError
from lossclient.giving_up import Attempt
from lossclient.line import Line
from lossclient.reply import decode_reply
from losswire import direct
from losswire.errors import CancelledError, DeadlineError, UnreachableError
from losswire.tensor import unpack
from tests.client.directs import directs_of, idle_of
from tests.conftest import PATIENCE, ServerProcess

L1 = {"type": "L1Loss"}
LARGE = np.ones((3000, 400), np.float32)


def lossy(line, loss=1.0, timeout=PATIENCE):
    """Send a large call whose loss is this, and see that it has it."""
    call = call_message(L1, LARGE * loss, LARGE * 0)
    found = decode_reply(pieces(call, line, timeout), unpack)
    assert found.loss == pytest.approx(loss)
    assert found.grad.shape == LARGE.shape


@pytest.fixture
def lines():
    """Makes lines, and closes them."""
    made = []

    def line_to(target):
        made.append(Line(target, None, -1))
        return made[-1]

    yield line_to
    for one in made:
        one.close()


@pytest.fixture
def line(server, lines):
    """A line to the shared server, with a connection."""
    found = lines(server.target)
    lossy(found)
    assert len(idle_of(found)) == 1
    return found


@pytest.fixture(scope="module")
def lame(tmp_path_factory):
    """A server that tests have stand still."""
    running = ServerProcess(tmp_path_factory.mktemp("lame") / "log")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def still(lame, lines):
    """A line with a connection to a server that stands still until the test is over."""
    line = lines(lame.target)
    lossy(line)
    os.kill(lame.process.pid, signal.SIGSTOP)
    yield line
    os.kill(lame.process.pid, signal.SIGCONT)
    lossy(line)


def test_a_connection_is_used_again(line):
    """By the next call, and the one after."""
    (first,) = idle_of(line)
    for loss in (2.0, 3.0):
        lossy(line, loss)

    assert idle_of(line) == [first]


def test_the_plane_goes_directly(server):
    """A client that is told to send in pieces, and one that finds that out."""
    with lossclient.connect(server.target, plane="pieces") as client:
        found = client.compute(L1, LARGE, LARGE * 0)

        assert found.loss == pytest.approx(1.0)
        assert len(idle_of(client.transport.targets.order()[0].line)) == 1


def test_calls_at_once_have_a_connection_each(line):
    """No answer is another's, and no more are kept than there were calls."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda loss: lossy(line, float(loss)), range(1, 13)))

    assert 1 <= len(idle_of(line)) <= 4
    assert len({one.name for one in idle_of(line)}) == len(idle_of(line))


def test_one_that_the_server_has_closed_is_replaced(line):
    """It is looked at before it is used: no call is lost by it."""
    (first,) = idle_of(line)
    first.line.shutdown(socket.SHUT_RD)
    lossy(line, 2.0)

    (second,) = idle_of(line)
    assert second.name != first.name
    assert first.line.fileno() < 0


def test_a_name_that_the_server_does_not_know_is_done_without(line):
    """As where another answers at the same address: the call goes by gRPC, and the next as well."""
    (first,) = idle_of(line)
    first.name = bytes(direct.NAME)
    for _ in range(2):
        lossy(line, 2.0)

    assert idle_of(line) == []
    assert first.line.fileno() < 0


def test_a_server_that_has_none_is_asked_by_grpc(serve, lines):
    """It is asked once, and not for each call."""
    line = lines(serve("--direct-port", "0").target)
    asked = []
    call = line.call
    line.call = lambda method, *more: asked.append(method) or call(method, *more)
    for _ in range(3):
        lossy(line)

    assert asked == ["GetServer"]
    assert idle_of(line) == []
    with pytest.raises(UnservedError, match="--direct-port"):
        directly(call_message(L1, LARGE, LARGE), line, PATIENCE)


@pytest.mark.parametrize(
    "say", [b"HTTP/1.1 400 Bad Request\r\nServer: another", b"220", b""], ids=["long", "short", "-"]
)
def test_another_service_at_the_port_is_not_spoken_to(say, server, lines):
    """What it says is no greeting: the call goes by gRPC, and it never hears of it."""
    line = lines(server.target)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        directs_of(line)._port = listening.getsockname()[1]

        def serve():
            with listening.accept()[0] as other:
                other.sendall(say)
                with suppress(OSError):  # who was spoken to may have hung up by now
                    other.shutdown(socket.SHUT_WR)
                    return other.recv(1)
                return b""

        heard = pool.submit(serve)
        lossy(line)

        assert heard.result(PATIENCE) == b""
        assert idle_of(line) == []


def test_a_server_that_was_restarted_has_new_ones(serve, unused_port):
    """Those to the one before are closed; the first call may go by gRPC, the next does not."""
    flags = (f"--port={unused_port}",)
    before = serve(*flags)
    with lossclient.connect(before.target, plane="pieces") as client:
        client.compute(L1, LARGE, LARGE * 0)
        line = client.transport.targets.order()[0].line
        (first,) = idle_of(line)
        before.stop(signal.SIGKILL)
        serve(*flags)
        losses = [client.compute(L1, i * LARGE, LARGE * 0).loss for i in range(2)]

        assert losses == pytest.approx([0.0, 1.0])
        assert [one.name for one in idle_of(line)] != [first.name]
        assert len(idle_of(line)) == 1


def test_a_connection_that_breaks_in_the_middle_is_unreachable(line, monkeypatch):
    """So the call is sent again, by gRPC for a while: perhaps that alone comes through."""
    (first,) = idle_of(line)
    send = Connection.send

    def send_and_break(self, payload, content):
        send(self, payload, content)
        self.line.shutdown(socket.SHUT_RDWR)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "send", send_and_break)
        with pytest.raises(UnreachableError):
            lossy(line)
    lossy(line)
    assert idle_of(line) == []
    assert first.line.fileno() < 0

    directs_of(line)._rests_until = 0.0
    lossy(line)
    assert len(idle_of(line)) == 1


def test_a_fault_of_the_call_is_told(line):
    """As by gRPC, and the connection is not used again: pieces may be on their way."""
    with pytest.raises(lossclient.UnknownLossError):
        pieces(call_message({"type": "Nope"}, LARGE, LARGE), line, PATIENCE)

    assert idle_of(line) == []


def test_a_deadline_ends_it(still):
    """Whatever the server does, and the connection with it."""
    (first,) = idle_of(still)
    with pytest.raises(DeadlineError, match=r"within the timeout of 0\.3 s"):
        lossy(still, timeout=0.3)

    assert idle_of(still) == []
    assert first.line.fileno() < 0


def test_an_attempt_that_is_given_up_ends(still):
    """From another thread, though the server says nothing."""
    (first,) = idle_of(still)
    attempt = Attempt()

    def run():
        with attempt.running():
            lossy(still)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(run)
        while idle_of(still):
            threading.Event().wait(0.001)
        attempt.give_up()

        assert isinstance(call.exception(PATIENCE), CancelledError)
    assert first.line.fileno() < 0


def test_closing_the_line_ends_its_calls(still, lame, lines):
    """With CancelledError, and no connection is left: not the one in use, nor an idle one."""
    closing = lines(lame.target)
    directs_of(closing)._idle, directs_of(still)._idle = directs_of(still)._idle, []
    (used,) = idle_of(closing)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lossy, closing)
        while idle_of(closing):
            threading.Event().wait(0.001)
        closing.close()

        assert isinstance(call.exception(PATIENCE), CancelledError)
    assert used.line.fileno() < 0


def test_a_server_that_is_killed_is_unreachable(serve, lines):
    """In the middle of a call, at once: the call need not wait for its timeout."""
    server = serve()
    line = lines(server.target)
    lossy(line)
    os.kill(server.process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lossy, line, timeout=600)
        while idle_of(line):
            threading.Event().wait(0.001)
        server.stop(signal.SIGKILL)

        assert isinstance(call.exception(PATIENCE), UnreachableError)


def test_a_client_that_is_forgotten_leaves_no_connection(server):
    """And no warning of one, though nobody has closed it."""
    line = Line(server.target, None, -1)
    lossy(line)
    descriptor = idle_of(line)[0].line.fileno()
    was = os.fstat(descriptor).st_ino
    gc.collect()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del line
        gc.collect()

    assert was not in open_files()
    assert [str(one.message) for one in said] == []


def open_files():
    """What this process has open."""
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the list itself
            found.add(one.stat().st_ino)
    return found


def test_a_forked_child_does_not_end_its_parent_s_connection(line):
    """gRPC ends all calls in a child, and with each its connection, which the parent is using."""
    (kept,) = idle_of(line)
    child = os.fork()
    if not child:
        kept.end()
        os._exit(0)
    os.waitpid(child, 0)

    assert kept.idle
    lossy(line, 2.0)
    assert idle_of(line) == [kept]


FORKS = """
import os, sys
import numpy as np, lossclient
L1, LARGE = dict(type="L1Loss"), np.ones((3000, 400), np.float32)
client = lossclient.connect(sys.argv[1], plane="pieces")
assert round(client.compute(L1, LARGE, LARGE * 0).loss) == 1
child = os.fork()
if not child:
    os._exit(round(client.compute(L1, LARGE * 2, LARGE * 0).loss))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
assert round(client.compute(L1, LARGE * 3, LARGE * 0).loss) == 3
"""


def test_a_forked_child_has_connections_of_its_own(server):
    """It leaves its parent's alone, on which the parent goes on; and nothing is said of them."""
    done = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-W", "default::ResourceWarning", "-c", FORKS, server.target],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stderr.decode()) == (0, "")
