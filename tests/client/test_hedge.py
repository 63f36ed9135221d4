"""lossclient.hedge: a second server is asked when the first one takes unusually long."""

import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import lossclient
from lossclient import many
from lossclient.giving_up import Attempt, current
from lossclient.hedge import ENOUGH, Budget, Latencies
from losswire.errors import CancelledError
from losswire.frame import Parts

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)
LARGE = np.ones((1024, 1024), np.float32)


@pytest.fixture(autouse=True)
def first_is_home(monkeypatch):
    """The first target of a list is a client's home, and not any of them."""
    monkeypatch.setattr("lossclient.targets.random.randrange", lambda _: 0)


@pytest.mark.parametrize("array", [ONE, LARGE], ids=["small", "large"])
def test_a_call_does_not_wait_for_a_server_that_hangs(serve, server, array):
    """Another server answers, is asked first from then on, and the first attempt is given up."""
    hung = serve()
    targets = [hung.target, server.target]
    with lossclient.connect(targets, hedge=lossclient.Hedge(after=0.5)) as client:
        client.compute(L1, array, array * 0)
        before = client.transport.tally["hedged"]
        os.kill(hung.process.pid, signal.SIGSTOP)
        losses = [client.compute(L1, array, array * 0, timeout=60).loss for _ in range(3)]
        hedged = client.transport.tally["hedged"] - before
        os.kill(hung.process.pid, signal.SIGCONT)

    assert losses == [1.0] * 3
    assert hedged == 1


def test_a_dead_server_is_no_reason_to_hedge(server, unused_port):
    """What fails goes on elsewhere at once, as without hedging."""
    targets = [f"127.0.0.1:{unused_port}", server.target]
    with lossclient.connect(targets, hedge=lossclient.Hedge(after=60.0)) as client:
        assert client.compute(L1, ONE, ZERO).loss == 1.0
        assert client.transport.tally["hedged"] == 0


def test_a_fault_of_the_call_is_told_at_once(server, unused_port):
    """What no server can answer is not sent to a second one."""
    targets = [server.target, f"127.0.0.1:{unused_port}"]
    with (
        lossclient.connect(targets, hedge=True) as client,
        pytest.raises(lossclient.UnknownLossError),
    ):
        client.compute({"type": "Hope"}, ONE, ZERO)


def test_hedging_takes_two():
    """A single server has no other."""
    with pytest.raises(ValueError, match="hedge must have several targets; given a:1"):
        lossclient.connect("a:1", hedge=True)


@pytest.mark.parametrize("wrong", [{"after": 0.0}, {"extra": 0.0}, {"extra": 1.5}])
def test_a_hedge_is_checked(wrong):
    """What makes no sense is said at once."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be above 0"):
        lossclient.Hedge(**wrong)


def test_what_is_unusual_is_learned_by_size():
    """The 95th of a hundred, of calls of about the same bytes, once there are enough."""
    latencies = Latencies()
    for i in range(ENOUGH - 1):
        latencies.note(1000, float(i))
    assert latencies.unusual(1000) is None
    for i in range(100):
        latencies.note(1000, float(i))

    assert 90 <= latencies.unusual(600) <= 99
    assert latencies.unusual(100_000) is None


def test_a_budget_bounds_the_second_attempts():
    """Of a thousand calls at once, of which each would like another, one in twenty gets it."""
    budget = Budget(0.05)
    granted = 0
    for _ in range(1000):
        budget.save()
        granted += budget.spend()

    assert 50 <= granted <= 52


def test_little_is_saved_up():
    """A long calm does not pay for a flood."""
    budget = Budget(0.05)
    for _ in range(100_000):
        budget.save()

    assert sum(budget.spend() for _ in range(1000)) == 10


def test_an_attempt_is_given_up_from_another_thread(serve):
    """The call ends with CancelledError, and does not wait for its server."""
    hung = serve()
    attempt = Attempt()
    told = []
    with lossclient.connect(hung.target) as client:
        client.server()
        os.kill(hung.process.pid, signal.SIGSTOP)
        line = client.transport.targets.order()[0].line

        def run():
            with attempt.running():
                try:
                    line.call("GetServer", b"", 60.0)
                except lossclient.LossError as error:
                    told.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        attempt.give_up()
        thread.join()
        os.kill(hung.process.pid, signal.SIGCONT)

    assert "hung up" in str(told[0]) or isinstance(told[0], lossclient.CancelledError)


def test_what_is_given_up_before_it_waits_does_not_wait():
    """An attempt ends the wait that it begins too late, and none after it."""
    ended = []
    attempt = Attempt()
    with attempt.running():
        attempt.give_up()
        with current().ended_by(lambda: ended.append("late")):
            pass
        assert ended == ["late"]

    assert current() is None


def test_the_attempt_that_is_given_up_does_not_undo_the_other_s_error(monkeypatch):
    """Of a list: what was wrong with a call is told, whichever attempt ends last."""
    wrong = lossclient.TensorError("label 9", field="target")

    class Hedging:
        """Makes a second attempt while the first is under way."""

        local = None

        def run(self, attempt, *_, **__):
            self.attempt = attempt
            attempt(None, None)

    planes = SimpleNamespace(transport=Hedging())
    told = iter([[CancelledError("the call was given up")], [wrong]])

    def together(*_):
        own = next(told)
        if own != [wrong]:
            planes.transport.attempt(None, None)  # which ends first
        return own

    monkeypatch.setattr(many, "together", together)
    found = many._send_small(planes, [Parts(b"", [])], None, many.Finish(None, None))

    assert found == [wrong]
