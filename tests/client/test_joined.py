"""A stream whose bypass is a direct connection: what becomes of it where only gRPC comes through."""

import socket
import threading
from contextlib import suppress

import numpy as np
import pytest

import lossclient
from lossclient.stream import Stream
from losswire.errors import DeadlineError
from tests.client.directs import directs_of
from tests.conftest import PATIENCE, ServerProcess
from tests.server.talk import direct_port_of

L1 = {"type": "L1Loss"}
ONE, ZERO = np.ones(4, np.float32), np.zeros(4, np.float32)

#: Bytes of a handshake, of the client and of the server.
REPEATED, GREETED = 16, 33


class Box:
    """Stands between a client and a server's port: passes the handshake, and then nothing.

    Parameters:
        port: the server's.
        resets: whether it hangs up then; else it swallows what comes.
    """

    def __init__(self, port, resets):
        self._port, self._resets = port, resets
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.passed = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        with suppress(OSError):
            while True:
                with self._listening.accept()[0] as near:
                    self._pass(near)

    def _pass(self, near):
        with socket.create_connection(("127.0.0.1", self._port)) as far:
            near.sendall(far.recv(GREETED - 1, socket.MSG_WAITALL))
            far.sendall(near.recv(REPEATED, socket.MSG_WAITALL))
            near.sendall(far.recv(1))
            self.passed += 1
            while near.recv(1 << 16) and not self._resets:
                pass

    def close(self):
        """Pass no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(PATIENCE)


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """A server that shares no memory."""
    running = ServerProcess(tmp_path_factory.mktemp("far") / "log", "--max-shared-bytes=0")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.mark.parametrize("resets", [False, True], ids=["swallows", "resets"])
def test_where_only_grpc_comes_through_calls_go_by_grpc(far, resets, monkeypatch):
    """One call may be late by it, or is sent again; those after it take the way that is open."""
    box = Box(direct_port_of(far.target), resets)
    connected = lossclient.direct.Directs.connected
    monkeypatch.setattr(
        lossclient.direct.Directs,
        "connected",
        lambda self, port, *more: connected(self, port and box.port, *more),
    )
    with lossclient.connect(far.target) as client:
        line = client.transport.targets.order()[0].line
        assert client.compute(L1, ONE, ZERO).loss == 1.0
        while not line.keep(Stream, Stream).bypassed:
            threading.Event().wait(0.01)
        with suppress(DeadlineError):
            client.compute(L1, ONE, ZERO, timeout=1.0)
        for _ in range(3):
            assert client.compute(L1, ONE, ZERO, timeout=PATIENCE).loss == 1.0

        assert box.passed == 1
        assert directs_of(line).resting
    box.close()
