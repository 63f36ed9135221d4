"""lossclient: several servers, of which some are dead, end, hang or come back."""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import lossclient
from lossclient.targets import Targets
from tests.conftest import find_unused_port

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)
COMPUTED = re.compile(r"compute loss=L1Loss")


@pytest.fixture(autouse=True)
def first_is_home(monkeypatch):
    """The first target of a list is a client's home, and not any of them."""
    monkeypatch.setattr("lossclient.targets.random.randrange", lambda _: 0)


@pytest.fixture
def nobody():
    """A target where nobody listens."""
    return f"127.0.0.1:{find_unused_port()}"


def ask(client, **more):
    return client.compute(L1, ONE, ZERO, **more).loss


def answered_by(server):
    """How many calls a server has answered, by its log."""
    return len(COMPUTED.findall(server.log.read_text()))


def test_a_target_that_is_not_there_is_passed_over(server, nobody, caplog):
    """One of two suffices; that the other is away is said once, and waited for by no call."""
    retry = lossclient.Retry(first_wait=1000, longest_wait=1000)
    with lossclient.connect([nobody, server.target], retry=retry) as client:
        losses = [ask(client) for _ in range(20)]

    assert losses == [1.0] * 20
    assert caplog.text.count("asking another") == 1


def test_a_call_goes_on_elsewhere_when_its_server_is_killed(serve, server):
    """Calls that are with a server as it dies are answered by another."""
    doomed = serve()
    with lossclient.connect([doomed.target, server.target]) as client:
        ask(client)
        os.kill(doomed.process.pid, signal.SIGSTOP)
        inside = [client.submit(L1, ONE, ZERO) for _ in range(8)]
        doomed.process.kill()

        assert [call.result().loss for call in inside] == [1.0] * 8


def test_a_server_that_shuts_down_is_left_without_a_wait(serve, server):
    """While one drains and ends, calls of many threads succeed, none having waited."""
    ending = serve()
    retry = lossclient.Retry(first_wait=1000, longest_wait=1000)
    losses = []
    over = threading.Event()
    with lossclient.connect([ending.target, server.target], retry=retry) as client:

        def train():
            while not over.is_set():
                losses.append(ask(client))

        threads = [threading.Thread(target=train) for _ in range(4)]
        for thread in threads:
            thread.start()
        code = ending.stop()
        over.set()
        for thread in threads:
            thread.join()
        losses.append(ask(client))

    assert code == 0
    assert set(losses) == {1.0}


def test_a_client_goes_home_when_its_server_is_back(serve, server, caplog):
    """A server that answers again is asked again, without a call having waited for that."""
    caplog.set_level(logging.INFO, "lossclient")
    port = f"--port={find_unused_port()}"
    first = serve(port)
    with lossclient.connect([first.target, server.target]) as client:
        ask(client)
        first.process.kill()
        first.process.wait()
        ask(client)
        second = serve(port)
        while not answered_by(second):
            ask(client)

        assert f"{first.target} answers again" in caplog.text


def test_a_target_that_hangs_is_not_asked_twice(serve, server):
    """A call ends with its timeout, as it must; the next one goes to another server."""
    hung = serve()
    with lossclient.connect([hung.target, server.target]) as client:
        ask(client)
        os.kill(hung.process.pid, signal.SIGSTOP)
        with pytest.raises(lossclient.DeadlineError):
            ask(client, timeout=0.3)

        assert ask(client) == 1.0
        os.kill(hung.process.pid, signal.SIGCONT)


def test_one_name_may_be_several_servers(serve):
    """gRPC asks both in turn, leaves out who is dead, and the client repeats what broke."""
    one, other = serve(), serve()
    both = f"ipv4:{one.target},{other.target}"
    while not (answered_by(one) and answered_by(other)):
        with lossclient.connect(both) as client:  # small calls go over a stream, to one of them
            ask(client)
    with lossclient.connect(both) as client:
        os.kill(one.process.pid, signal.SIGSTOP)
        inside = [client.submit(L1, ONE, ZERO) for _ in range(4)]
        one.process.kill()

        assert [call.result().loss for call in inside] == [1.0] * 4
        assert [ask(client) for _ in range(10)] == [1.0] * 10


def test_all_being_away_is_waited_for(serve):
    """With nobody left, a call waits until one is back."""
    ports = [find_unused_port(), find_unused_port()]
    with lossclient.connect([f"127.0.0.1:{port}" for port in ports]) as client:
        waiting = client.submit(L1, ONE, ZERO, timeout=90)
        serve(f"--port={ports[1]}")

        assert waiting.result().loss == 1.0


def test_nobody_anywhere_is_said_in_the_end(nobody, unused_port):
    """The error has what each target said, and counts the attempts; `attempts` are rounds through them."""
    retry = lossclient.Retry(attempts=2, first_wait=0.01)
    targets = [nobody, f"127.0.0.1:{unused_port}"]
    said = rf"{targets[0]} .*; .* {targets[1]} .*after 4 attempts"
    with (
        lossclient.connect(targets, retry=retry) as client,
        pytest.raises(lossclient.UnreachableError, match=said),
    ):
        ask(client)


def test_raise_does_not_wait(nobody):
    """on_unavailable="raise" asks each target once."""
    with (
        lossclient.connect([nobody], on_unavailable="raise") as client,
        pytest.raises(lossclient.UnreachableError) as failure,
    ):
        ask(client)

    assert "attempts" not in str(failure.value)
    assert client.transport.tally["repeated"] == 0


@pytest.mark.parametrize("wrong", [[], ["a:1", "a:1"]])
def test_targets_are_some_and_not_the_same(wrong):
    """What makes no sense is said at once."""
    with pytest.raises(ValueError, match="target must be one or more, none of them twice"):
        lossclient.connect(wrong)


def test_on_unavailable_is_one_of_three():
    """Another word is refused."""
    with pytest.raises(ValueError, match="'wait', 'local' or 'raise'; given 'hope'"):
        lossclient.connect(on_unavailable="hope")


def test_clients_spread_over_the_targets(monkeypatch):
    """Not all begin with the first."""
    monkeypatch.undo()
    homes = {
        lossclient.connect(["a:1", "b:2"]).transport.targets.order()[0].line.target
        for _ in range(64)
    }

    assert homes == {"a:1", "b:2"}


def test_many_targets_survive_a_pickle(server, nobody):
    """A spawned worker gets all of them, and what else was said to `connect`."""
    hedge = lossclient.Hedge(after=1.0)
    with lossclient.connect([nobody, server.target], hedge=hedge) as client:
        copied = pickle.dumps(client)
    with pickle.loads(copied) as copy:  # noqa: S301  (our own bytes)
        assert ask(copy) == 1.0
        assert str(copy.transport.targets) == f"{nobody}, {server.target}"


def test_a_forked_worker_goes_on_elsewhere(server, nobody):
    """What a parent knows of its targets is no harm to its children."""
    script = """
import os, sys, warnings, numpy as np, lossclient
warnings.simplefilter("ignore", DeprecationWarning)
client = lossclient.connect(sys.argv[1:], hedge=lossclient.Hedge(after=5.0))
ask = lambda: client.compute(dict(type="L1Loss"), np.ones((2, 3)), np.zeros((2, 3))).loss
for _ in range(3):
    assert ask() == 1.0
    child = os.fork()
    if child == 0:
        os._exit(0 if ask() == ask() == 1.0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
client.close()
"""
    done = subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, "-c", script, nobody, server.target],
        timeout=60,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr.decode()


def test_targets_have_an_order(nobody):
    """Who failed comes last, or is left out; who answered comes first again."""
    lines = lossclient.connect([nobody, "b:2"]).transport.targets._lines
    targets = Targets(lines)
    home, other = targets.order()
    targets.failed(home, lossclient.OverloadedError("busy"))
    assert targets.order() == [home, other]
    targets.failed(home, lossclient.DrainingError("going"))
    assert targets.order() == [other, home]
    assert targets.order(well=True) == [other]
    home.answered()

    assert targets.order() == [home, other]
