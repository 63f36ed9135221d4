"""lossclient.local: the same formulas in this process, where no server answers."""

import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import lossclient
from lossclient.torch import RemoteLoss
from lossserver import local
from lossserver.job import Job
from tests.client.recording import SEESAW, logits, seesaw_inputs
from tests.conftest import find_unused_port

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)


@pytest.fixture
def alone():
    """A client without a server, which can do without."""
    target = f"127.0.0.1:{find_unused_port()}"
    with lossclient.connect(target, on_unavailable="local") as connected:
        yield connected


def test_what_is_computed_here_is_what_a_server_says(client, alone):
    """Loss, gradient and state are the same to the last bit."""
    pred, target = (np.asarray(one.detach()) for one in seesaw_inputs())
    state = None
    for _ in range(3):
        here = alone.compute(SEESAW, pred, target, state=state)
        there = client.compute(SEESAW, pred, target, state=state)

        assert here.losses == there.losses
        np.testing.assert_array_equal(here.grad, there.grad)
        np.testing.assert_array_equal(here.state["cum_samples"], there.state["cum_samples"])
        state = here.state


def test_a_handle_is_no_hindrance(alone):
    """A tensor that is to stay with a server is at hand here."""
    handle = lossclient.client.handle_of(ZERO)

    assert alone.compute(L1, ONE, handle).loss == 1.0


def test_errors_are_a_servers(alone):
    """What is at fault is told in the same words."""
    with pytest.raises(lossclient.UnknownLossError, match="no loss named 'Hope'"):
        alone.compute({"type": "Hope"}, ONE, ZERO)
    with pytest.raises(lossclient.TensorError, match="pred"):
        alone.compute(L1, ONE.astype(int), ZERO)


def test_a_faulty_loss_is_an_internal_error(alone, monkeypatch, caplog):
    """Its text stays in the log, as on a server."""

    def fail(*_: object) -> list[Job]:
        raise RuntimeError("secret")

    monkeypatch.setattr(local, "computed", fail)
    with pytest.raises(lossclient.InternalError, match="under request"):
        alone.compute(L1, ONE, ZERO)

    assert "secret" in caplog.text


def test_it_is_said_once(alone, caplog):
    """One warning, however many calls; and submit can do without a server, too."""
    losses = [alone.compute(L1, ONE, ZERO).loss for _ in range(5)]
    losses.append(alone.submit(L1, ONE, ZERO).result().loss)

    assert losses == [1.0] * 6
    assert caplog.text.count("computing in this process") == 1
    assert alone.transport.tally["local"] == 6


def test_a_timeout_holds_here_too(alone, monkeypatch):
    """A computation that takes longer is not waited for."""
    go = threading.Event()
    real = local.computed

    def slow(*args):
        go.wait()
        return real(*args)

    monkeypatch.setattr(local, "computed", slow)
    with pytest.raises(lossclient.DeadlineError, match="this process must answer within"):
        alone.compute(L1, ONE, ZERO, timeout=0.2)
    go.set()


def test_what_a_trainer_has_set_changes_nothing(alone, remote):
    """Under autocast and inference mode the loss is the one that a server would give."""
    pred, target = logits(4, 3), torch.tensor([0, 1, 2, 0])
    config = {"type": "CrossEntropyLoss"}
    with torch.autocast("cpu", torch.bfloat16):
        here = RemoteLoss(config, alone)(pred, target)
        here.backward()
    with torch.inference_mode():
        unwatched = RemoteLoss(config, alone)(pred, target)
    grad, pred.grad = pred.grad, None
    there = remote(**config)(pred, target)
    there.backward()

    assert here == unwatched == there
    assert torch.equal(grad, pred.grad)


def test_threads_share_it(alone):
    """Each gets its own answer."""
    wrong = []

    def train(i):
        wrong.extend(j for j in range(10) if alone.compute(L1, ONE * (i + j), ZERO).loss != i + j)

    threads = [threading.Thread(target=train, args=(100 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_a_server_that_is_there_again_is_asked_again(alone, serve, caplog):
    """Calls go back to it by themselves, and no call waits for it before."""
    caplog.set_level(logging.INFO, "lossclient")
    assert alone.compute(L1, ONE, ZERO).loss == 1.0
    target = str(alone.transport.targets)
    running = serve("--port", target.rpartition(":")[2])
    while "compute loss=L1Loss" not in running.log.read_text():
        alone.compute(L1, ONE, ZERO)

    assert f"{target} answers again" in caplog.text


def test_without_the_formulas_it_is_said_at_once():
    """connect() says what to install, not the first call without a server."""
    script = """
import sys
sys.modules["torch"] = None
import lossclient
try:
    lossclient.connect(on_unavailable="local")
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, "-c", script], timeout=60, capture_output=True, check=True, text=True
    )

    assert "pip install 'lossserver[server]' (no module torch)" in done.stdout
