"""lossclient.resident: tensors are put once, and again by themselves where they are gone."""

import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import lossclient
from lossclient import planes
from lossclient.torch import RemoteLoss, put
from losswire.resident import digest_of
from tests.conftest import ServerProcess, find_unused_port

KD = {"type": "KnowledgeDistillationKLDivLoss"}
L1 = {"type": "L1Loss"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def teacher(rng):
    return rng.standard_normal((64, 80), dtype=np.float32)


@pytest.fixture
def student(rng):
    return rng.standard_normal((64, 80), dtype=np.float32)


class Watched:
    """What a client puts, and the calls it sends: methods and bytes."""

    def __init__(self, client, monkeypatch):
        self.sent = []
        self._lock = threading.Lock()
        call, carried = line_of(client).call, planes.carried

        def noted(method, message, timeout):
            if method == "PutTensor":
                self._note(method, len(message))
            return call(method, message, timeout)

        def noting(way, parts, line, timeout):
            def noted_way(parts, line, timeout):
                self._note("Compute", parts.size)
                return way(parts, line, timeout)

            return carried(noted_way, parts, line, timeout)

        monkeypatch.setattr(line_of(client), "call", noted)
        monkeypatch.setattr(planes, "carried", noting)

    def _note(self, *sent):
        with self._lock:
            self.sent.append(sent)

    def methods(self):
        """Methods of all messages."""
        return [method for method, _ in self.sent]

    def large(self):
        """Methods of the messages with more than 10 kB."""
        return [method for method, size in self.sent if size > 10_000]


def line_of(client):
    return client.transport.run(lambda line, _: line, 5)


@pytest.fixture(scope="module")
def cramped(tmp_path_factory):
    """A server that has room for two tensors of a tenant."""
    running = ServerProcess(
        tmp_path_factory.mktemp("cramped") / "log", "--max-tenant-resident-bytes", "50000"
    )
    yield running
    running.stop()


@pytest.fixture
def watch(monkeypatch):
    return lambda client: Watched(client, monkeypatch)


@pytest.fixture
def connect(server):
    """Clients of the shared server that share no connection with others."""
    made = []

    def open_one(target=server.target, **options):
        # Channels of different options have different connections.
        options.setdefault("max_message_bytes", (1 << 30) - len(made) - 1)
        made.append(lossclient.connect(target, **options))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def test_a_handle_takes_the_place_of_an_array(connect, student, teacher):
    """The same loss and gradient, bit for bit."""
    client = connect()
    handle = client.put(teacher)
    there, away = client.compute(KD, student, teacher), client.compute(KD, student, handle)

    assert there.loss == away.loss
    np.testing.assert_array_equal(there.grad, away.grad)


@pytest.mark.parametrize("plane", ["inline", "streamed", "pieces", "shared"])
def test_it_goes_with_every_plane(connect, monkeypatch, rng, plane):
    """Whichever way pred travels, the server finds the rest."""
    way = getattr(planes, plane)
    monkeypatch.setattr(planes, "chosen", lambda *call: way(*call[-3:]))
    pred, target = rng.standard_normal((2, 1024, 512), dtype=np.float32)
    client = connect()
    there = client.compute(L1, pred, target)
    away = client.compute(L1, pred, client.put(target))
    labels = client.put(np.arange(1024) % 512)
    entropy = client.compute({"type": "CrossEntropyLoss"}, client.put(pred), labels)

    np.testing.assert_allclose(there.loss, away.loss, rtol=1e-6)
    np.testing.assert_allclose(there.grad, away.grad, rtol=1e-6)
    assert entropy.grad.shape == pred.shape


def test_it_may_stand_anywhere_in_a_call(connect, student, teacher):
    """As pred, target, weight, upstream gradient, and in a tree."""
    client = connect()
    weight = np.abs(teacher)
    given = {"target": teacher, "weight": weight, "reduction_override": "none"}
    plain = client.compute(L1, student, grad_output=weight, **given)
    handles = {"target": client.put(teacher), "weight": client.put(weight)}
    found = client.compute(
        L1,
        client.put(student),
        grad_output=client.put(weight),
        reduction_override="none",
        **handles,
    )
    np.testing.assert_array_equal(plain.loss, found.loss)
    np.testing.assert_array_equal(plain.grad, found.grad)


def test_the_same_bytes_are_sent_once(connect, watch, teacher):
    """A second put of them is a question; a call names them."""
    client = connect()
    watched = watch(client)
    client.put(teacher)
    first = watched.large()
    handle = client.put(teacher.copy())
    client.compute(KD, handle, handle, wrt=())

    assert first == ["PutTensor"]
    assert watched.large() == ["PutTensor"]
    assert watched.methods() == ["PutTensor"] * 3 + ["Compute"]


def test_the_array_may_be_overwritten(connect, student, teacher):
    """A handle is of the bytes as they were."""
    client = connect()
    right = client.compute(KD, student, teacher).loss
    handle = client.put(teacher)
    teacher[:] = 0

    assert client.compute(KD, student, handle).loss == right
    with connect() as other:
        assert other.compute(KD, student, handle).loss == right


def test_a_handle_is_good_for_any_client(connect, watch, student, teacher):
    """On a connection that has not seen it, it is put before the call."""
    handle = connect().put(teacher)
    other = connect()
    watched = watch(other)
    other.compute(KD, student, pickle.loads(pickle.dumps(handle)))  # noqa: S301
    other.compute(KD, student, copy.deepcopy(handle))

    assert watched.large() == ["PutTensor", "Compute", "Compute"]


def test_what_was_evicted_is_put_again(cramped, connect, watch, student, teacher):
    """The call that notices it succeeds, and so does the next one without more ado."""
    client = connect(cramped.target)
    watched = watch(client)
    right = client.compute(KD, student, teacher).loss
    first, second = client.put(teacher), client.put(student)
    third = client.put(teacher * 2)
    watched.sent.clear()

    assert client.compute(KD, student, first).loss == right
    assert watched.methods() == ["Compute", "PutTensor", "PutTensor", "Compute"]
    assert client.compute(KD, first, third, wrt=()).loss > 0
    assert second.nbytes == student.nbytes


def test_what_has_expired_is_put_again(serve, connect, student, teacher):
    """A time to live that is over before the call."""
    client = connect(serve("--resident-ttl", "0.000001").target)
    handle = client.put(teacher)
    right = client.compute(KD, student, teacher).loss

    assert client.compute(KD, student, handle).loss == right


def test_too_many_for_one_call_are_sent_in_it(cramped, connect, caplog, teacher):
    """Where a call's tensors do not fit together, it succeeds all the same, and it is said once."""
    client = connect(cramped.target)
    handles = [client.put(teacher + n) for n in range(3)]
    results = [client.compute(L1, *handles) for _ in range(2)]

    assert results[0].loss == results[1].loss > 0
    assert caplog.text.count("handles are sent as arrays") == 1


@pytest.mark.parametrize("flag", ["--max-resident-bytes=0", "--max-resident-bytes=5000"])
def test_where_nothing_stays_a_handle_is_an_array(serve, connect, watch, student, teacher, flag):
    """It is tried once; but who puts it hears of it."""
    target = serve(flag).target
    client, handle = connect(target), lossclient.Handle("float32", (64, 80), teacher.tobytes())
    watched = watch(client)
    right = client.compute(KD, student, teacher).loss
    losses = [client.compute(KD, student, handle).loss for _ in range(3)]

    assert losses == [right] * 3
    assert watched.methods().count("PutTensor") <= 2
    with pytest.raises((lossclient.NotServedError, lossclient.MessageTooLargeError)):
        client.put(teacher)


def test_a_restart_in_the_middle_of_training_is_not_noticed(serve, connect, student, teacher):
    """The new server gets the tensor, and the loop the same losses."""
    port = str(find_unused_port())
    server = serve("--port", port)
    client = connect(f"127.0.0.1:{port}")
    handle = client.put(teacher)
    losses = []
    for step in range(6):
        if step == 3:
            server.process.kill()
            server.process.wait()
            serve("--port", port)
        losses.append(client.compute(KD, student + step, handle, timeout=90).loss)

    assert losses == [client.compute(KD, student + step, teacher).loss for step in range(6)]


def test_another_of_several_servers_gets_it(serve, connect, student, teacher):
    """When the first is killed, the second is given the tensor by the call itself."""
    servers = [serve(), serve()]
    client = connect([one.target for one in servers])
    handle = client.put(teacher)
    losses = []
    for one in (None, *servers[:1]):
        if one is not None:
            one.process.kill()
            one.process.wait()
        losses.append(client.compute(KD, student, handle, timeout=60).loss)

    assert losses[0] == losses[1]


def test_behind_a_name_of_several_servers_it_travels(server, connect, watch, student, teacher):
    """Where the next call may reach another server, nothing is put anywhere."""
    client = connect("dns:///localhost:" + server.target.rpartition(":")[2])
    watched = watch(client)
    handle = client.put(teacher)

    assert client.compute(KD, student, handle).loss == client.compute(KD, student, teacher).loss
    assert watched.methods() == ["Compute"] * 2


def test_a_hundred_calls_share_one(connect, watch, teacher):
    """At once, with a tensor that is not there yet: it is put once."""
    client = connect()
    watched = watch(client)
    handle = lossclient.Handle("float32", teacher.shape, teacher.tobytes())
    with ThreadPoolExecutor(32) as threads:
        losses = list(threads.map(lambda _: client.compute(L1, handle, handle).loss, range(100)))

    assert losses == [0.0] * 100
    assert watched.large() == ["PutTensor"]
    assert watched.methods().count("Compute") == 100


def test_a_submitted_call_may_have_one(connect, student, teacher):
    """Also if it has to be put again by the thread that sends it."""
    client = connect()
    handle = lossclient.Handle("float32", teacher.shape, teacher.tobytes())
    found = [client.submit(KD, student, handle) for _ in range(8)]
    right = client.compute(KD, student, teacher).loss

    assert [one.result().loss for one in found] == [right] * 8


def test_a_list_of_calls_may_have_one(cramped, connect, student, teacher):
    """Put before them, and again where it was let go."""
    client = connect(cramped.target)
    handle = lossclient.Handle("float32", teacher.shape, teacher.tobytes())
    right = client.compute(KD, student, teacher).loss
    calls = [{"cfg": KD, "pred": student, "target": handle}] * 3
    first = client.compute_many(calls)
    for n in range(3):
        client.put(teacher * n)

    assert [one.loss for one in (*first, *client.compute_many(calls))] == [right] * 6


def _in_child(client, handle, student, results):
    results.put(client.compute(KD, student, handle).loss)


def test_a_forked_worker_uses_it(connect, student, teacher):
    """A handle made before the fork is put over the child's own connection."""
    client = connect()
    handle = client.put(teacher)
    right = client.compute(KD, student, handle).loss
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    child = fork.Process(target=_in_child, args=(client, handle, student, results))
    child.start()
    child.join(60)

    assert child.exitcode == 0
    assert results.get() == right


def test_what_is_no_array_is_refused(connect):
    """Before anything is sent."""
    client = connect()
    with pytest.raises(lossclient.TensorError, match="dtype must be one of"):
        client.put(np.array(["a"]))
    with pytest.raises(lossclient.TensorError, match="dtype must be one of"):
        client.put(object())
    with pytest.raises(lossclient.TensorError, match=r"that NumPy can read .*given Tensor"):
        client.put(torch.ones(3, requires_grad=True))


def test_a_handle_of_a_handle_is_itself(connect, teacher):
    """Put again, it is asked for again."""
    client = connect()
    handle = client.put(teacher)

    assert client.put(handle) is handle
    assert handle.digest == digest_of(teacher.tobytes())


def test_a_module_takes_one_as_target(connect, student, teacher):
    """RemoteLoss computes the same loss and gradient, and wants no gradient of the handle."""
    client = connect()
    remote = RemoteLoss(KD, client)
    losses, grads = [], []
    for target in (torch.tensor(teacher), put(client, torch.tensor(teacher))):
        pred = torch.tensor(student, requires_grad=True)
        loss = remote(pred, target)
        loss.backward()
        losses.append(loss.item())
        grads.append(pred.grad)

    assert losses[0] == losses[1]
    assert torch.equal(*grads)


def test_a_bfloat16_teacher_stays(connect, student, teacher):
    """torch's tensors go through `lossclient.torch.put`, which NumPy has no type for."""
    client = connect()
    half = torch.tensor(teacher, requires_grad=True).bfloat16()
    handle = put(client, half)
    pred = torch.tensor(student)
    remote = RemoteLoss(KD, client)

    assert (handle.dtype, handle.shape) == ("bfloat16", (64, 80))
    assert remote(pred, handle) == remote(pred, half.detach())


def test_an_unreduced_loss_with_one_is_two_calls(connect, student, teacher):
    """Backward names it again."""
    client = connect()
    remote = RemoteLoss(KD | {"reduction": "none"}, client)
    pred = torch.tensor(student, requires_grad=True)
    remote(pred, put(client, torch.tensor(teacher))).sum().backward()
    right = client.compute(KD, student, teacher, reduction_override="sum").grad

    torch.testing.assert_close(pred.grad, torch.tensor(right))


def test_a_reply_that_is_none_is_told(connect, monkeypatch, teacher):
    """Another program at the target's address."""
    client = connect()
    monkeypatch.setattr(line_of(client), "call", lambda *_: b"\xff\xff")
    with pytest.raises(lossclient.InternalError, match="PutTensorResponse"):
        client.put(teacher)


def test_a_server_that_knows_no_put_is_told(connect, monkeypatch, teacher, student):
    """An older one: a put says so, and a call with a handle succeeds."""
    client = connect()
    call = line_of(client).call

    def older(method, message, timeout):
        if method == "PutTensor":
            raise lossclient.NotServedError("Method not found!")
        return call(method, message, timeout)

    monkeypatch.setattr(line_of(client), "call", older)
    handle = lossclient.Handle("float32", teacher.shape, teacher.tobytes())
    with pytest.raises(lossclient.NotServedError):
        client.put(teacher)

    assert client.compute(KD, student, handle).loss > 0
    assert "resident" in client.server().planes
