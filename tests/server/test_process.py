"""The server as a process: how it starts, what it says, how it ends. Real sockets, real signals."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import as_completed

import grpc
import numpy as np
import pytest
import tyro
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import lossclient
from lossserver.commands import _from_environment
from lossserver.config import Config
from lossserver.ending import unless
from losswire.v1 import loss_pb2 as pb
from losswire.v1 import loss_pb2_grpc
from tests.conftest import PATIENCE

FOCAL = {"type": "FocalLoss"}
ENTROPY = {"type": "CrossEntropyLoss"}


def run(*arguments, timeout=60):
    """`lossserver ARGUMENTS`, to its end."""
    return subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", "lossserver", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_calls_in_flight_finish_when_it_is_stopped(serve, number):
    """SIGTERM and Ctrl-C drain: small and large calls that wait for company are answered at once."""
    server = serve("--max-wait", "50", "--max-calls-in-flight", "3")
    sent = [
        (np.zeros((rows, 4000), np.float32), np.zeros(rows, np.int64)) for rows in (2, 300, 3, 4)
    ]
    with lossclient.connect(server.target, retry=lossclient.Retry(attempts=1)) as client:
        calls = [client.submit(ENTROPY, *arrays) for arrays in sent]
        # One is refused: three are in.
        refused = next(as_completed(calls))
        code = server.stop(number)

    log = server.log.read_text()
    assert code == 0, log
    assert isinstance(refused.exception(), lossclient.OverloadedError)
    for call, (pred, _) in zip(calls, sent, strict=True):
        assert call is refused or call.result().grad.shape == pred.shape
    assert log.count("status=OK") == 3
    assert "draining" in log
    assert log.rstrip().endswith("stopped")


def test_health_tells_when_it_serves(server):
    """The health service answers for the server as a whole and for the loss service by name."""
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "losswire.v1.LossService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)

            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_says_that_it_drains(serve):
    """A load balancer that watches is told NOT_SERVING while calls in flight still finish."""
    server = serve()
    with grpc.insecure_channel(server.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        seen = [next(watch).status]
        server.process.send_signal(signal.SIGTERM)
        seen.append(next(watch).status)

    answer = health_pb2.HealthCheckResponse
    assert seen == [answer.SERVING, answer.NOT_SERVING]


def test_who_watches_the_health_does_not_hold_up_the_end(serve):
    """An open Watch costs a drain no time, however much it would have."""
    server = serve("--drain-timeout", "3600")
    with grpc.insecure_channel(server.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)

        assert server.stop() == 0


def test_a_second_stop_does_not_wait(serve):
    """Ctrl-C twice ends calls in flight instead of finishing them, and still exits with 0."""
    server = serve("--drain-timeout", "3600", "--max-calls-in-flight", "1")
    pred, target = np.zeros((6000, 4000), np.float32), np.zeros(6000, np.int64)
    with lossclient.connect(server.target, retry=lossclient.Retry(attempts=1)) as client:
        calls = [client.submit(ENTROPY, pred, target) for _ in range(2)]
        next(as_completed(calls))
        server.process.send_signal(signal.SIGINT)
        server.find(re.compile("draining"))

        assert server.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("how", ["timeout", "signal"])
def test_a_device_that_hangs_does_not_hold_up_the_end(serve, how):
    """When the drain's time is over, or at a second signal, nobody waits for its thread."""
    timeout = "0.1" if how == "timeout" else "3600"
    server = serve("--drain-timeout", timeout, program=("-m", "tests.server.losing", "hangs"))
    pred, target = np.zeros((600, 80), np.float32), np.zeros(600, np.int64)
    with lossclient.connect(server.target, retry=lossclient.Retry(attempts=1)) as client:
        call = client.submit(FOCAL, pred, target)
        server.find(re.compile("it hangs"))
        server.process.send_signal(signal.SIGTERM)
        server.find(re.compile("draining"))

        assert (server.process.wait(PATIENCE) if how == "timeout" else server.stop()) == 0
        assert call.exception() is not None
    assert "is not waited for" in server.log.read_text()


def test_what_is_not_read_does_not_come_in(serve):
    """Methods whose requests have nothing in them answer before a message, however large, is here."""
    server = serve("--max-message-bytes", "4000")
    with grpc.insecure_channel(server.target) as channel:
        for method in ("ListLosses", "GetServer"):
            ask = channel.unary_unary(f"/losswire.v1.LossService/{method}")

            assert ask(bytes(1 << 20), timeout=30)


def test_a_server_that_is_to_end_does_not_wait_for_kernels():
    """What warms up takes long; what it raises, its caller hears."""

    async def scenario():
        near, go = asyncio.Event(), threading.Event()
        with pytest.raises(ValueError, match="no such list"):
            await unless(near, refuse, "no such list")
        asyncio.get_running_loop().call_soon(near.set)
        await unless(near, go.wait, PATIENCE)
        go.set()

    asyncio.run(scenario())


def refuse(text):
    """Raise as a list does that cannot be read."""
    raise ValueError(text)


def test_the_health_command(server):
    """`lossserver health` exits 0 where one serves and 1 where none does, and says which."""
    here, nowhere = run("health", "--target", server.target), run("health", "--target", "[::1]:1")

    assert (here.returncode, here.stdout) == (0, "SERVING\n")
    assert nowhere.returncode == 1
    assert "[::1]:1 does not answer: UNAVAILABLE" in nowhere.stderr


def test_reflection_lists_the_service(server):
    """grpcurl and its like can find out what there is to call."""
    with grpc.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=30)

    names = {service.name for service in answer.list_services_response.service}
    assert {"losswire.v1.LossService", "grpc.health.v1.Health"} <= names


def test_any_grpc_client_will_do(server):
    """The generated stub, with no code of ours around it, gets a loss and a gradient."""
    tensor = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2, 3], payload=0)
    other = pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[2, 3], payload=1)
    config = pb.ValueMap(entries={"type": pb.Value(string_value="L1Loss")})
    header = pb.ComputeHeader(
        config=pb.Value(map_value=config),
        inputs={"pred": pb.Value(tensor_value=tensor), "target": pb.Value(tensor_value=other)},
        wrt=["pred"],
    )
    payloads = [np.ones((2, 3), "<f4").tobytes(), np.zeros((2, 3), "<f4").tobytes()]
    with grpc.insecure_channel(server.target) as channel:
        stub = loss_pb2_grpc.LossServiceStub(channel)
        reply = stub.Compute(pb.ComputeRequest(header=header, payloads=payloads), timeout=30)

    grad = reply.header.grads["pred"].tensor_value
    assert (
        np.frombuffer(reply.payloads[reply.header.losses["loss"].tensor_value.payload], "<f4") == 1
    )
    assert list(grad.shape) == [2, 3]
    np.testing.assert_allclose(np.frombuffer(reply.payloads[grad.payload], "<f4"), 1 / 6)
    assert reply.header.timings.compute > 0


def test_a_line_a_call(serve):
    """The log says what was computed, in which company and how long it took; or what was wrong."""
    server = serve()
    with lossclient.connect(server.target) as client:
        client.compute(FOCAL, np.zeros((2, 3), np.float32), np.array([0, 1]))
        with pytest.raises(lossclient.SpecError):
            client.compute(FOCAL | {"gamma": -1}, np.zeros((2, 3)), np.array([0, 1]))
    server.stop()
    lines = [line for line in server.log.read_text().splitlines() if " compute " in line]

    assert len(lines) == 2
    assert re.search(
        r"compute loss=FocalLoss elements=8 batch=1 wait=0\.\d{4} compute=0\.\d{4} status=OK$",
        lines[0],
    )
    assert "status=INVALID_ARGUMENT reason='config.gamma: must be at least 0" in lines[1]


def test_callers_share_a_batch_and_notice_nothing(serve):
    """Many at once are computed together, and a NaN or a bad label among them is its owner's alone."""
    server = serve("--max-wait", "0.05")
    generator = np.random.default_rng(0)
    pred = generator.standard_normal((40, 8, 3)).astype(np.float32)
    target = generator.integers(0, 4, (40, 8))
    pred[7] = np.nan
    target[9] = 99
    with lossclient.connect(server.target) as client:
        alone = [
            client.compute(FOCAL, p, t) if i not in (7, 9) else None
            for i, (p, t) in enumerate(zip(pred, target, strict=True))
        ]
        calls = [client.submit(FOCAL, p, t) for p, t in zip(pred, target, strict=True)]
        errors = [call.exception() for call in calls]
        together = [
            None if error else call.result() for call, error in zip(calls, errors, strict=True)
        ]

    assert [i for i, error in enumerate(errors) if error] == [9]
    assert isinstance(errors[9], lossclient.TensorError)
    assert np.isnan(together[7].loss)
    for a, b in zip(alone, together, strict=True):
        if a is not None:
            np.testing.assert_allclose(a.loss, b.loss, rtol=1e-6)
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-5, atol=1e-9)
    # Not by the log: what it says of a call follows the answer.
    assert max(one.timings.batch for one in together if one) > 1


def test_the_losses_command():
    """`lossserver losses` lists them; with a name it prints the card; a wrong name gets near ones."""
    listed, card, wrong = run("losses"), run("losses", "FocalLoss"), run("losses", "Focal")

    assert "FocalLoss                Sigmoid focal loss, for dense detection." in listed.stdout
    assert "arXiv:1708.02002" in card.stdout
    assert "gamma: float" in card.stdout
    assert (wrong.returncode, "near names: FocalLoss" in wrong.stderr) == (1, True)


def test_a_proxy_is_not_asked_the_way_to_this_machine(server, monkeypatch):
    """http_proxy, which containers are often told, changes nothing on loopback."""
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert run("health", "--target", server.target).returncode == 0
    with lossclient.connect(server.target) as client:
        assert client.server(timeout=5).version


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "host 0.0.0.0 is open to other machines"),  # noqa: S104
        (["--device", "cuda:99"], "device must be one that torch finds here; given 'cuda:99'"),
        (["--device", "; rm"], "device must be one that torch finds here"),
        (["--port", "70000"], "port must be in 0..65535; given 70000"),
        (["--max-wait", "-1"], "max_wait must be in"),
        (["--wait-of", "FocalLoss=0.1", "L1Loss"], "wait_of must be LOSS=SECONDS"),
    ],
)
def test_a_server_that_cannot_serve_says_why(flags, said):
    """Wrong flags end in a sentence and a code that is not 0, without a traceback."""
    done = run("serve", "--port", "0", *flags)
    text = re.sub(r"[\s│]+", " ", done.stderr + done.stdout)

    assert done.returncode != 0
    assert said in text
    assert "Traceback" not in text


def test_a_port_in_use_is_said(server):
    """The second server on a port says that there is another, and how to take a free one."""
    done = run("serve", "--port", server.target.split(":")[1])

    assert done.returncode == 1
    assert "is another server there? --port 0 takes a free port" in done.stderr


def test_help_reads_well():
    """Every option of every config class is in the help with its text."""
    text = re.sub(r"[\s│]+", " ", run("serve", "--help").stdout)

    for flag in ("--host", "--port", "--insecure", "--device", "--threads", "--max-message-bytes"):
        assert flag in text
    assert "seconds that calls in flight have to finish after SIGTERM" in text
    assert "LOSSSERVER_PORT is --port" in text


def test_the_environment_is_read_and_a_flag_wins(serve, monkeypatch):
    """LOSSSERVER_<OPTION> stands for the flag, a flag beside it counts more."""
    monkeypatch.setenv("LOSSSERVER_MAX_CALLS_IN_FLIGHT", "7")
    monkeypatch.setenv("LOSSSERVER_MAX_MESSAGE_BYTES", "1000")
    server = serve("--max-message-bytes", "2000")
    with lossclient.connect(server.target) as client:
        limits = client.server().limits

    assert (limits.max_calls_in_flight, limits.max_message_bytes) == (7, 2000)


def test_several_values_of_an_option_are_apart_by_blanks_in_the_environment():
    """LOSSSERVER_WAIT_OF holds what would follow --wait-of, and that beside it counts more."""
    environ = {"LOSSSERVER_WAIT_OF": "FocalLoss=0.002 GIoULoss=0.001", "LOSSSERVER_PORT": "0"}
    flags = [*_from_environment(Config, environ)]
    config = tyro.cli(tyro.conf.OmitArgPrefixes[Config], args=flags)
    beside = tyro.cli(tyro.conf.OmitArgPrefixes[Config], args=[*flags, "--wait-of", "L1Loss=0"])

    assert config.batch.wait_of == ("FocalLoss=0.002", "GIoULoss=0.001")
    assert config.listen.port == 0
    assert beside.batch.wait_of == ("L1Loss=0",)
