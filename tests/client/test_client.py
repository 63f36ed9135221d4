"""lossclient: one object for a training loop, its threads and its forks."""

import pickle
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import lossclient
from lossclient.planes import read
from lossclient.reply import decode_reply
from lossclient.terms import PRIORITIES, Terms
from losswire import tensor
from tests.client.recording import Recording

L1 = {"type": "L1Loss"}
ONE = np.ones((2, 3), np.float32)
ZERO = np.zeros((2, 3), np.float32)


def test_the_seeds_example(client):
    """The L1 example of the mmdet tutorial: 9/8 without weights, 8/8 with."""
    pred = np.array([[0, 2, 3, 0]] * 2, np.float32)
    target = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.float32)
    weight = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.float32)

    assert client.compute(L1, pred, target).loss == 9 / 8
    assert client.compute(L1, pred, target, weight).loss == 8 / 8


def test_a_result_has_all_its_parts(client):
    """Loss, parts, gradient and timings come back, arrays writable and of the sent dtype."""
    result = client.compute(L1, ONE, ZERO, wrt=("pred", "target"))
    result.grad[:] *= 2

    assert result.loss == 1.0
    assert result.losses == {"loss": 1.0}
    assert result.grad.dtype == np.float32
    np.testing.assert_allclose(result.grads["target"], -ONE / 6)
    np.testing.assert_allclose(result.grad, ONE / 3)
    assert result.state is None
    assert all(seconds >= 0 for seconds in vars(result.timings).values())


def test_only_what_is_wanted_is_sent_back(client):
    """Without wrt there is a value and no gradient."""
    result = client.compute(L1, ONE, ZERO, wrt=())

    assert (result.loss, result.grad, result.grads) == (1.0, None, {})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_float_comes_back_as_it_went(client, dtype):
    """Gradient and unreduced loss have the dtype of pred."""
    result = client.compute(L1, ONE.astype(dtype), ZERO.astype(dtype), reduction_override="none")

    assert result.grad.dtype == result.loss.dtype == np.dtype(dtype)


def test_upstream_gradients_go_with_the_call(client):
    """grad_output scales the gradient, as a number or row by row."""
    doubled = client.compute(L1, ONE, ZERO, grad_output=2.0)
    uneven = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = client.compute(L1, ONE, ZERO, reduction_override="none", grad_output=uneven)

    np.testing.assert_allclose(doubled.grad, ONE / 3)
    np.testing.assert_allclose(rows.grad, uneven)


def test_upstream_gradients_by_part_may_be_numbers(client):
    """In a map a number is as good as an array, whole or not, and so is a list's."""
    both = {"type": "Sum", "parts": {"a": L1, "b": L1}}
    found = client.compute(both, ONE, ZERO, grad_output={"a": 2, "b": np.float32(0.5)})
    whole = client.compute(L1, ONE, ZERO, grad_output=2)

    np.testing.assert_allclose(found.grad, 2.5 * ONE / 6)
    np.testing.assert_allclose(whole.grad, 2 * ONE / 6)


def test_a_metric_alone_is_the_result(client):
    """Accuracy is no loss, but who asks for it alone reads it where a loss would be."""
    scores, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 0])
    found = client.compute({"type": "Accuracy"}, scores, labels)

    assert found.loss == pytest.approx(200 / 3)
    assert found.metrics == {"top1"}


def test_a_config_may_hold_arrays(client):
    """A class_weight computed with NumPy is a list of numbers to the server."""
    config = {"type": "CrossEntropyLoss", "class_weight": np.array([1, 2, 3])}

    assert client.compute(config, ZERO, np.array([0, 2])).loss == pytest.approx(2 * np.log(3))


def test_submit_does_not_wait(client):
    """Many calls are in flight at once and each future has its own result."""
    futures = [client.submit(L1, ONE * i, ZERO) for i in range(100)]

    assert [future.result().loss for future in futures] == list(range(100))


def test_submit_reads_the_arrays_at_once(client):
    """A buffer that is refilled after submit, as a training loop does it, spoils nothing."""
    pred, futures = ONE.copy(), []
    for i in range(50):
        pred[:] = i
        futures.append(client.submit(L1, pred, ZERO))

    assert [future.result().loss for future in futures] == list(range(50))


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e10])
def test_a_timeout_may_be_for_ever(client, timeout):
    """None and what is longer than a year set no deadline."""
    assert client.compute(L1, ONE, ZERO, timeout=timeout).loss == 1.0


def test_a_reply_that_is_none_is_said():
    """What answers at the port may be no loss server."""
    for noise in (b"", b"\xff\xff", b"HTTP/1.1 200 OK"):
        with pytest.raises(lossclient.InternalError, match="a reply must be a losswire"):
            decode_reply(read(noise), tensor.unpack)


def test_many_threads_share_a_client(client):
    """Sixteen threads get, each call, their own answer."""
    wrong = []

    def train(i: int) -> None:
        wrong.extend(j for j in range(30) if client.compute(L1, ONE * (i + j), ZERO).loss != i + j)

    threads = [threading.Thread(target=train, args=(100 * i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


# Python warns of any fork in a process with threads; forking with a client in use is the point here.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_worker_can_use_the_client(server):
    """A DataLoader's worker gets an answer, and so does the parent afterwards."""
    script = """
import os, sys, numpy as np, lossclient
client = lossclient.connect(sys.argv[1])
ask = lambda: client.compute(dict(type="L1Loss"), np.ones((2, 3)), np.zeros((2, 3))).loss
assert ask() == 1.0
assert client.submit(dict(type="L1Loss"), np.ones(2), np.zeros(2)).result().loss == 1.0
for _ in range(3):
    child = os.fork()
    if child == 0:
        submitted = client.submit(dict(type="L1Loss"), np.ones(2), np.zeros(2))
        os._exit(0 if ask() == 1.0 == submitted.result().loss else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask() == 1.0
client.close()
"""
    done = subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, "-c", script, server.target], timeout=60, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr.decode()


def test_a_client_can_be_pickled(client):
    """A spawned worker or a copied module gets a client of the same server."""
    with pickle.loads(pickle.dumps(client)) as copy:  # noqa: S301  (our own bytes)
        assert copy.compute(L1, ONE, ZERO).loss == 1.0


def test_a_closed_client_says_so(server):
    """A use after close is a ValueError, not a hang."""
    with lossclient.connect(server.target) as client:
        client.compute(L1, ONE, ZERO)

    with pytest.raises(ValueError, match="the client is closed"):
        client.compute(L1, ONE, ZERO)
    with pytest.raises(ValueError, match="the client is closed"):
        client.submit(L1, ONE, ZERO)


def test_the_catalogue(client):
    """The losses come with parameters, defaults, inputs and sources, as data."""
    losses = client.losses()

    assert {"L1Loss", "SmoothL1Loss", "MSELoss", "CrossEntropyLoss", "FocalLoss"} <= losses.keys()
    focal = losses["FocalLoss"]
    assert focal["parameters"]["gamma"]["default"] == 2.0
    assert focal["parameters"]["gamma"]["type"] == "float"
    assert losses["CrossEntropyLoss"]["parameters"]["class_weight"]["default"] is None
    assert "arXiv:1708.02002" in focal["source"]
    assert focal["batchable"]


def test_the_server_describes_itself(client):
    """Version, devices, planes and limits."""
    server = client.server()

    assert server.version
    assert list(server.devices) == ["cpu"]
    assert {"inline", "stream"} <= set(server.planes)
    assert server.limits.max_message_bytes > 0


def test_the_client_needs_no_torch(server):
    """Where torch cannot be imported, the client computes with NumPy arrays."""
    script = """
import sys
sys.modules["torch"] = None
import numpy as np, lossclient
with lossclient.connect(sys.argv[1]) as client:
    result = client.compute(dict(type="FocalLoss"), np.zeros((2, 3), "f4"), np.array([0, 3]))
assert result.grad.shape == (2, 3)
loaded = {name.split(".")[0] for name in sys.modules if sys.modules[name] is not None}
print(*sorted(loaded & {"torch", "scipy", "lossserver", "ml_dtypes", "tyro"}))
"""
    done = subprocess.run(  # noqa: S603  (our own script)
        [sys.executable, "-c", script, server.target], timeout=60, capture_output=True, check=False
    )

    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == []


@pytest.mark.parametrize("wrong", [None, 50051, [b"a:1"], {"a:1"}])
def test_a_target_is_a_text_or_several(wrong):
    """Anything else is said at once, and not at the first call."""
    with pytest.raises(TypeError, match=r"target must be a text .*, or a list of them; given"):
        lossclient.connect(wrong)


@pytest.mark.parametrize("word", ["high", "usual", "low"])
def test_a_priority_goes_with_every_call(server, word):
    """Of compute and submit alike, and of the client that a spawned worker gets."""
    with Recording(lossclient.connect(server.target).planes, Terms(priority=word)) as client:
        client.compute(L1, ONE, ZERO)
        client.submit(L1, ONE, ZERO).result()

        assert [header.priority for header in client.sent] == [PRIORITIES[word]] * 2
    with lossclient.connect(server.target, priority=word) as client:
        assert pickle.loads(pickle.dumps(client)).terms.priority == word  # noqa: S301  (our own)


def test_a_priority_is_one_of_three():
    """Any other word is refused before anything is sent."""
    with pytest.raises(ValueError, match="must be one of high, usual, low; given 'urgent'"):
        lossclient.connect(priority="urgent")


def test_a_result_says_in_which_company_it_was_computed(client):
    """A lone call is a batch of one; whether a kernel was fused for it is a bool."""
    timings = client.compute(L1, ONE, ZERO).timings

    assert timings.batch >= 1
    assert timings.fused in (False, True)
