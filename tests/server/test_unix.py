"""lossserver.unix: a server on a Unix socket, reached by all that reach one on TCP."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys

import numpy as np
import pytest

import lossclient
from lossserver.config import Listen
from lossserver.unix import check_free

L1 = {"type": "L1Loss"}
ONES = np.ones(4, np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "loss.sock"


def run(*arguments, **environment):
    """A command that has ended."""
    return subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", "lossserver", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_that_reach_tcp_reach_a_unix_socket(serve, path):
    """Clients, alone or among several targets, the health command and the load generator."""
    target = f"unix:{path}"
    server = serve(f"--host={target}")
    with lossclient.connect(target) as one, lossclient.connect([target, "localhost:1"]) as several:
        losses = [client.compute(L1, ONES, 0 * ONES).loss for client in (one, several)]
    ran = [
        run("health", LOSSSERVER_HOST=target),
        run("health", "--target", f"unix://{path}"),
        run("bench", "--target", target, "--seconds=0.2", "--warmup=0.1"),
    ]

    assert server.target == target
    assert losses == [1, 1]
    assert [one.returncode for one in ran] == [0, 0, 0], [one.stderr for one in ran]
    assert "SERVING" in ran[0].stdout
    assert server.stop() == 0
    assert not path.exists()


def test_what_a_killed_server_left_is_no_hindrance(serve, path):
    """The next one listens there; and while it does, no other."""
    serve(f"--host=unix:{path}").stop(signal.SIGKILL)
    left = path.exists()
    second = serve(f"--host=unix:{path}")

    assert left
    with pytest.raises(OSError, match="another server is there"):
        check_free(f"unix:{path}")
    with lossclient.connect(f"unix:{path}") as client:
        assert client.compute(L1, ONES, ONES).loss == 0
    assert second.stop() == 0


def test_only_its_owner_may_connect(serve, path):
    """With the usual umask: who may not write to the file may not."""
    serve(f"--host=unix:{path}")

    assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def test_where_there_is_something_else_nobody_listens(path):
    """A file is not taken away for a socket, and a directory must be there."""
    path.write_text("mine")

    with pytest.raises(OSError, match="something else"):
        check_free(f"unix:{path}")
    with pytest.raises(OSError, match="no directory"):
        check_free(f"unix://{path.parent}/none/loss.sock")


def test_a_free_path_is_free(path):
    """One that is not there, or that nobody listens on."""
    check_free(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    check_free(f"unix:{path}")


def test_the_servers_errors_name_the_socket(path):
    """The command ends with what is wrong, and leaves what is there."""
    path.write_text("mine")
    ended = run("serve", f"--host=unix:{path}", LOSSSERVER_DEVICE="cpu", LOSSSERVER_COMPILE="off")

    assert ended.returncode == 1
    assert f"cannot listen on unix:{path}" in ended.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("host", "target"),
    [("localhost", "localhost:7"), ("::1", "[::1]:7"), ("unix:/a/b", "unix:/a/b")],
)
def test_a_server_says_what_clients_call_it(host, target):
    """The text to give to `connect`."""
    assert Listen(host=host).target(7) == target


def test_a_socket_that_nobody_listens_on_is_unreachable(path):
    """As a port is."""
    nobody = pytest.raises(lossclient.UnreachableError, match=re.escape(str(path)))
    with lossclient.connect(f"unix:{path}", on_unavailable="raise") as client, nobody:
        client.compute(L1, ONES, ONES)
