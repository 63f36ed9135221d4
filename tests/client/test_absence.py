"""lossclient: servers that come and go, or were never there."""

import os
import signal
import time

import numpy as np
import pytest

import lossclient
from tests.conftest import find_unused_port

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)


def test_nobody_there_is_an_error_that_names_the_target(caplog):
    """The first failed attempt is logged; the error says where nobody answered and how often."""
    target = f"127.0.0.1:{find_unused_port()}"
    retry = lossclient.Retry(attempts=3, first_wait=0.01)
    with (
        lossclient.connect(target, retry=retry) as client,
        pytest.raises(lossclient.UnreachableError, match=rf"{target}.*after 3 attempts"),
    ):
        client.compute(L1, ONE, ZERO)

    assert [record.name for record in caplog.records] == ["lossclient"]
    assert f"must answer at {target}" in caplog.text


@pytest.mark.alone  # its seconds are those of a machine that does nothing else
def test_retries_end_with_the_timeout():
    """Without a server a call ends within its timeout, not later."""
    started = time.monotonic()
    with (
        lossclient.connect(f"127.0.0.1:{find_unused_port()}") as client,
        pytest.raises(lossclient.ServiceError),
    ):
        client.compute(L1, ONE, ZERO, timeout=0.5)

    assert time.monotonic() - started < 5


def test_a_server_that_comes_back_is_found(serve):
    """Killed in the middle of training and started again, it goes on answering the same client."""
    port = str(find_unused_port())
    first = serve("--port", port)
    with lossclient.connect(f"127.0.0.1:{port}") as client:
        client.compute(L1, ONE, ZERO)
        first.process.kill()
        first.process.wait()
        waiting = client.submit(L1, ONE, ZERO, timeout=90)
        serve("--port", port)

        assert waiting.result().loss == 1.0


def test_the_deadline_passes_on_a_server_that_hangs(serve):
    """A server that stands still costs no more than the timeout."""
    hung = serve()
    with lossclient.connect(hung.target) as client:
        client.compute(L1, ONE, ZERO)
        os.kill(hung.process.pid, signal.SIGSTOP)
        with pytest.raises(
            lossclient.DeadlineError, match=r"must answer within the timeout of 0\.3 s"
        ):
            client.compute(L1, ONE, ZERO, timeout=0.3)
        os.kill(hung.process.pid, signal.SIGCONT)
