"""lossclient: a thousand lost connections, and clients that come and go, leave nothing behind."""

import gc
import os
import selectors
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

import lossclient

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)

#: Threads and descriptors that there may be more or fewer of from one moment to the next: gRPC's own,
#: and of some streams that are about to end, each of which has four threads.
ABOUT = 16


class Relay:
    """Between a client and a server, on one machine; cuts their connections when told to."""

    def __init__(self, server):
        self._to = server.rpartition(":")[::2]
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._wake, waking = socket.socketpair()
        self._waking = waking
        self._selector.register(waking, selectors.EVENT_READ)
        self._peers = {}
        self.cuts = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self):
        """Cut all connections, a moment later."""
        self._wake.send(b"c")

    def close(self):
        """End, with all connections."""
        self._wake.send(b"x")
        self._thread.join()
        for one in (self._wake, self._waking, self._listening, self._selector):
            one.close()

    def _run(self):
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    self._join(self._listening.accept()[0], socket.create_connection(self._to))
                elif key.fileobj is self._waking:
                    self.cuts += bool(self._peers)
                    for one in list(self._peers):
                        self._drop(one)
                    if b"x" in self._waking.recv(64):
                        return
                else:
                    self._pass_on(key.fileobj)

    def _join(self, *ends):
        for one, other in (ends, ends[::-1]):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, one):
        if one not in self._peers:
            return  # dropped a moment ago
        try:
            content = one.recv(1 << 16)
            self._peers[one].sendall(content)
        except OSError:
            content = b""
        if not content:
            self._drop(one)

    def _drop(self, one):
        other = self._peers.pop(one, None)
        if other is not None:
            self._selector.unregister(one)
            one.close()
            self._drop(other)


@pytest.fixture
def relay(server):
    """A way to the shared server that can be cut."""
    between = Relay(server.target)
    yield between
    between.close()


def held(pid):
    """Descriptors and threads of a process."""
    return [len(list(Path("/proc", str(pid), what).iterdir())) for what in ("fd", "task")]


def test_a_thousand_lost_connections_leave_nothing(relay, server):
    """No thread, descriptor or channel more than after the first few, on either side."""
    pids = os.getpid(), server.process.pid
    retry = lossclient.Retry(first_wait=0.001, longest_wait=0.01)
    with lossclient.connect(relay.target, retry=retry) as client:

        def lose(times):
            until = relay.cuts + times
            while relay.cuts < until:
                assert client.compute(L1, ONE, ZERO).loss == 1.0
                relay.cut()

        lose(20)
        before = [held(pid) for pid in pids]
        python = threading.active_count()
        lose(1000)
        after = [held(pid) for pid in pids]

        assert np.all(np.subtract(after, before) <= ABOUT), (before, after)
        # Three of the stream that it has now, and three of the one that it has just lost.
        assert threading.active_count() <= python + 6


def test_clients_that_come_and_go_leave_nothing(server, unused_port):
    """Neither those that are closed nor those that are forgotten, with all that they may have."""
    targets = [f"127.0.0.1:{unused_port}", server.target]

    def come_and_go(times):
        for i in range(times):
            client = lossclient.connect(targets, hedge=lossclient.Hedge(after=60.0))
            assert client.compute(L1, ONE, ZERO).loss == 1.0
            assert client.submit(L1, ONE, ZERO).result().loss == 1.0
            if i % 2:
                client.close()

    def left():
        gc.collect()
        return [held(pid) for pid in (os.getpid(), server.process.pid)]

    come_and_go(10)
    before = left()
    come_and_go(200)
    after = left()

    assert np.all(np.subtract(after, before) <= ABOUT), (before, after)
