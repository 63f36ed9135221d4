"""lossclient.shared: calls through memory that client and server share."""

import gc
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import lossclient
from lossclient.regions import Regions
from losswire import offer
from losswire.offer import AVAILABLE, FOLDER, PREFIX
from tests.conftest import ServerProcess

# Names in /dev/shm are counted, and other tests' would be among them.
pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="needs Linux"),
    pytest.mark.alone,
]

L1 = {"type": "L1Loss"}

#: Elements of a pred that goes through shared memory.
LARGE = 1 << 19

#: How often a client comes and goes.
RECONNECTS = 1000


#: Regions that clients of other tests have mapped in this process.
OTHERS = {"self": 0}


def regions_of(process: int | str = "self") -> int:
    """How many regions a process has mapped; in this one not counting those of other tests."""
    mapped = Path(f"/proc/{process}/maps").read_text().count("memfd:lossserver-region")
    return mapped - OTHERS.get(process, 0)


def files_of(process: int | str = "self") -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def pred(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(LARGE, dtype=np.float32)


def wait_until(met) -> None:
    """Ask again until it is so; the test's own time limit ends it."""
    while not met():
        threading.Event().wait(0.01)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server that only these tests use."""
    server = ServerProcess(tmp_path_factory.mktemp("shared") / "log")
    gc.collect()
    OTHERS["self"] += regions_of()
    yield server
    server.stop()
    OTHERS["self"] = 0


@pytest.fixture
def own(running):
    """The same, with nothing mapped: what it has mapped then is the test's."""
    gc.collect()
    wait_until(lambda: not regions_of(running.process.pid) + regions_of())
    return running


@pytest.fixture
def connected(own):
    with lossclient.connect(own.target) as client:
        yield client


def test_a_large_call_goes_through_shared_memory(own, connected):
    """Its answer is that of any other way, and server and client have a region mapped."""
    given, target = pred(), pred(1)
    result = connected.compute(L1, given, target)

    assert result.loss == pytest.approx(np.abs(given - target).mean(), rel=1e-5)
    assert np.array_equal(result.grad, np.sign(given - target) / np.float32(LARGE))
    assert regions_of(own.process.pid) == regions_of() == 1


def test_results_are_the_callers_own(connected):
    """A gradient may be written, and no later call writes over it while it lives."""
    first = connected.compute(L1, pred(), pred(1)).grad
    kept = first.copy()
    first[0] = kept[0] = 7
    second = connected.compute(L1, pred(2), pred(3)).grad

    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)


def test_a_region_is_used_again(connected):
    """As soon as nobody refers to the last result, which is what makes it fast."""
    for seed in range(5):
        result = connected.compute(L1, pred(seed), pred(9))
        del result

    assert regions_of() == 1


def test_part_of_a_result_keeps_it(connected):
    """A view of a gradient is as good as the gradient."""
    part = connected.compute(L1, pred(), pred(1)).grad[100:200]
    kept = part.copy()
    gc.collect()
    for seed in range(3):
        connected.compute(L1, pred(seed + 2), pred(1))

    assert np.array_equal(part, kept)


def test_results_outlive_the_connection(serve):
    """A gradient is there after the client was closed, and after the server was killed."""
    server = serve()
    with lossclient.connect(server.target) as client:
        grad = client.compute(L1, pred(), pred(1)).grad
    server.stop(signal.SIGKILL)
    gc.collect()

    assert np.array_equal(grad, np.sign(pred() - pred(1)) / np.float32(LARGE))


def test_what_is_let_go_is_given_back(own):
    """Neither side has anything mapped once a client is closed and its results are gone."""
    with lossclient.connect(own.target) as client:
        result = client.compute(L1, pred(), pred(1))
    del result
    gc.collect()
    wait_until(lambda: not regions_of(own.process.pid))

    assert regions_of() == 0


def test_a_killed_client_leaves_nothing(own):
    """The server unmaps the regions of a client that was killed with one in use."""
    program = (
        "import sys, numpy as np, lossclient\n"
        "client = lossclient.connect(sys.argv[1])\n"
        f"zeros = np.zeros({LARGE}, np.float32)\n"
        "result = client.compute({'type': 'L1Loss'}, zeros, zeros)\n"
        "print('there', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: S603  (our own program)
        [sys.executable, "-c", program, own.target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"there\n"
        before = regions_of(own.process.pid)
        other.kill()
    wait_until(lambda: not regions_of(own.process.pid))

    assert before == 1
    assert not list(FOLDER.glob(PREFIX + "*"))


def test_a_killed_server_leaves_nothing(serve, unused_port):
    """No name is left of it, and the client goes on with the next one."""
    first = serve(f"--port={unused_port}")
    with lossclient.connect(first.target) as client:
        client.compute(L1, pred(), pred(1))
        first.stop(signal.SIGKILL)
        left = list(FOLDER.glob(PREFIX + "*"))
        second = serve(f"--port={unused_port}")
        result = client.compute(L1, pred(), pred(1), timeout=60)
        shared = regions_of(second.process.pid)

    assert result.grad is not None
    assert left == []
    assert shared == 1


def test_clients_that_come_and_go_leave_nothing(own):
    """No region, thread or open file, on either side."""

    def come_and_go(times):
        for _ in range(times):
            with lossclient.connect(own.target) as client:
                client.compute(L1, given, given)
        gc.collect()
        wait_until(lambda: not regions_of(own.process.pid) + regions_of())
        return threading.active_count(), files_of()

    given = pred()
    before = come_and_go(20)
    files = files_of(own.process.pid)
    after = come_and_go(RECONNECTS)
    wait_until(lambda: files_of(own.process.pid) <= files)

    assert after[0] <= before[0]
    assert after[1] <= before[1]


def test_an_array_that_lies_there_is_not_copied(connected):
    """`empty` gives one; so is any part of it, and a gradient that is sent on."""
    given = connected.empty((4, LARGE // 4))
    given[:] = pred().reshape(4, -1)
    address = given.ctypes.data
    seen = []
    regions = connected.transport.first().keep(Regions, Regions)
    find = regions.find
    regions.find = lambda payload: seen.append(find(payload)) or seen[-1]
    grad = connected.compute(L1, given, np.zeros_like(given)).grad
    part = connected.compute(L1, given[1:], 1 + given[1:]).grad
    again = connected.compute(L1, grad, 2 * grad).grad

    assert [span is not None for span in seen] == [True, False] * 3
    assert seen[2].offset == seen[0].offset + given.nbytes // 4
    assert given.ctypes.data == address
    assert np.array_equal(grad, np.sign(given) / np.float32(LARGE))
    assert np.all(part == -1 / np.float32(part.size))
    assert np.array_equal(again, -np.sign(grad) / np.float32(LARGE))


def test_an_array_for_calls_is_one_like_any_other(connected, monkeypatch):
    """Of any dtype and shape, and also where no memory is shared."""
    monkeypatch.setattr(offer, "FOLDER", Path("/nowhere"))
    arrays = [connected.empty((3, 0)), connected.empty((), np.int64), connected.empty([7], "f2")]
    for array in arrays:
        array[...] = 1

    assert [(one.shape, one.dtype.name) for one in arrays] == [
        ((3, 0), "float32"),
        ((), "int64"),
        ((7,), "float16"),
    ]


def test_threads_have_a_region_each(connected):
    """Calls at the same time do not write over each other's."""
    wrong = []

    def call(seed):
        given = pred(seed)
        for _ in range(5):
            grad = connected.compute(L1, given, pred(99)).grad
            if not np.array_equal(grad, np.sign(given - pred(99)) / np.float32(LARGE)):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_where_no_memory_is_shared_calls_go_another_way(own, tmp_path, monkeypatch):
    """A client that cannot open what the server names, as on another machine, is answered all the same."""
    monkeypatch.setattr(offer, "FOLDER", tmp_path)
    with lossclient.connect(own.target) as client:
        result = client.compute(L1, pred(), pred(1))

    assert result.grad.shape == (LARGE,)
    assert regions_of(own.process.pid) == 0


@pytest.mark.parametrize("most", [0, 1 << 20])
def test_where_the_quota_is_too_small_calls_go_another_way(serve, most):
    """A server that shares nothing, or less than a call needs, answers; but who demands it is told."""
    server = serve(f"--max-shared-bytes={most}")
    with lossclient.connect(server.target) as client:
        result = client.compute(L1, pred(), pred(1))
        full = pytest.raises((lossclient.NotServedError, lossclient.OverloadedError))
        client.planes.plane = "shared"
        with full:
            client.compute(L1, pred(), pred(1), timeout=0.5)

    assert result.grad.shape == (LARGE,)


def test_who_demands_shared_memory_has_it_for_small_calls_too(own):
    """And what it gets does not keep a region in use."""
    with lossclient.connect(own.target, plane="shared") as client:
        result = client.compute(L1, np.ones(4, np.float32), np.zeros(4, np.float32))
        mapped = regions_of(own.process.pid)
    gc.collect()

    assert result.grad.tolist() == [0.25] * 4
    assert mapped == 1
    assert regions_of() == 0


def test_what_nobody_uses_makes_room(serve):
    """A larger call is not kept out by the regions of smaller ones."""
    server = serve(f"--max-shared-bytes={32 << 20}")
    with lossclient.connect(server.target) as client:
        client.compute(L1, pred(), pred(1))
        for times in (2, 1):
            large = np.tile(pred(), times)
            result = client.compute(L1, large, large)
            assert result.grad.base is not None
            del result

    assert regions_of() == 0


def test_a_wrong_call_says_what_is_wrong(connected):
    """An error of the request comes back as it does any other way, and the next call goes well."""
    with pytest.raises(lossclient.TensorError, match="target"):
        connected.compute(
            {"type": "CrossEntropyLoss"}, pred().reshape(-1, 8), np.full(LARGE // 8, 9)
        )
    result = connected.compute(L1, pred(), pred(1))

    assert result.grad.shape == (LARGE,)
    assert regions_of() <= 2


def test_halves_and_integers_go_through_it_too(connected):
    """Whatever the dtype of pred, and with integer targets of which values are checked."""
    given = pred().reshape(-1, 64).astype(np.float16)
    target = np.random.default_rng(0).integers(0, 64, len(given))
    result = connected.compute({"type": "CrossEntropyLoss"}, given, target)
    small = connected.compute({"type": "CrossEntropyLoss"}, given[:100], target[:100])

    assert result.grad.dtype == np.float16
    assert np.allclose(
        result.grad[:100].astype(np.float32) * len(given), small.grad * np.float32(100), atol=1e-2
    )


def test_an_unreduced_loss_comes_back_whole(connected):
    """Where the loss is as large as pred, it is there beside the gradient."""
    given, target = pred(), pred(1)
    result = connected.compute(L1, given, target, reduction_override="none")

    assert np.array_equal(result.loss, np.abs(given - target))
    assert np.array_equal(result.grad, np.sign(given - target))
