"""A server whose device is lost: it drains, starts itself again in place, and training goes on."""

import itertools
import urllib.request
from concurrent.futures import wait

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

import lossclient
from lossserver.restart import SOON, VARIABLE, LostAgainError, Restart
from tests.conftest import PATIENCE

FOCAL = {"type": "FocalLoss"}
LOSING = ("-m", "tests.server.losing")
ANSWER = health_pb2.HealthCheckResponse


def steps(client, count):
    """The losses of some steps of training, four calls each, two of them too large for the loop."""
    generator = np.random.default_rng(0)
    sizes = [16, 500, 16, 500]
    preds = [np.zeros((rows, 80), np.float32) for rows in sizes]
    targets = [generator.integers(0, 80, rows) for rows in sizes]
    for _ in range(count):
        calls = [
            client.submit(FOCAL, pred, target, reduction_override="sum", timeout=PATIENCE)
            for pred, target in zip(preds, targets, strict=True)
        ]
        results = [call.result() for call in calls]
        for pred, result in zip(preds, results, strict=True):
            np.subtract(pred, 0.5 * result.grad, out=pred)
        yield sum(result.loss for result in results)


@pytest.mark.parametrize(
    ("how", "device"), [("once", "cpu"), pytest.param("truly", "cuda:0", marks=pytest.mark.gpu)]
)
def test_training_goes_on_through_a_lost_device(serve, unused_port, how, device):
    """No call fails; health says so meanwhile; process, port and command line stay as they were."""
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    flags = ["--metrics-port", str(unused_port), "--device", device]
    server = serve(*flags, program=(*LOSING, how))
    with lossclient.connect(server.target) as client, grpc.insecure_channel(server.target) as to:
        health = health_pb2_grpc.HealthStub(to)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        seen = [next(watch).status]
        losses = list(steps(client, 20))
        seen.append(next(watch).status)
        again = health.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)
        seen.append(again.status)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as page:
        metrics = page.read().decode()

    log = server.log.read_text()
    assert seen == [ANSWER.SERVING, ANSWER.NOT_SERVING, ANSWER.SERVING], log
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert log.count(f"serving on {server.target} device={device}") == 2
    assert log.count("status=OK") == 80
    assert f'lossserver_device_restarts_total{{device="{device}"}} 1.0' in metrics
    assert "device-side assert triggered" in log
    assert server.stop() == 0


def test_a_device_that_is_lost_again_ends_the_server(serve):
    """One restart is tried; then the server exits, and says which device and why."""
    server = serve(program=(*LOSING, "always"))
    pred, target = np.zeros((500, 80), np.float32), np.zeros(500, np.int64)
    with lossclient.connect(server.target) as client:
        while server.process.poll() is None:
            call = client.submit(FOCAL, pred, target, timeout=PATIENCE)
            while server.process.poll() is None and not call.done():
                wait([call], timeout=0.02)
            call.cancel()

    log = server.log.read_text()
    assert server.process.returncode == 1, log
    assert "lossserver: device cpu was lost after" in log
    assert "Traceback" not in log.rpartition("draining")[2]


def test_what_one_server_leaves_the_next_finds():
    """Port and counts go through the environment; at a first start there is nothing."""
    assert Restart.told({}) == Restart(port=0, lost={})

    left = Restart.told({VARIABLE: '{"port": 7, "lost": {"cuda:0": 2}}'})
    next_one = left.after("cuda:1", 7, SOON + 1)

    assert next_one == Restart(port=7, lost={"cuda:0": 2, "cuda:1": 1})
    assert next_one.names() == ["cuda:0", "cuda:0", "cuda:1"]


def test_a_second_loss_so_soon_is_not_tried_again():
    """A first loss is, however soon."""
    first = Restart().after("cuda:0", 7, 0.1)

    with pytest.raises(LostAgainError, match=r"device cuda:0 was lost after 3\.0 s"):
        first.after("cuda:0", 7, 3.0)
