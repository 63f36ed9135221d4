"""A call in pieces, by gRPC and directly: the same answer, in memory of its own, and what breaks it."""

import signal
from concurrent import futures
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from lossclient.call import call_message
from lossclient.directly import pieces as directly_or_not
from lossclient.ended import UnservedError
from lossclient.line import Line
from lossclient.pieces import Answer
from lossclient.pieces import pieces as by_grpc
from lossclient.planes import inline
from lossclient.reply import decode_reply
from lossclient.resident import carried
from losswire import frame, piece
from losswire.errors import DeadlineError, InternalError, MessageError, UnreachableError
from losswire.frame import Parts
from losswire.tensor import unpack
from tests.client.directs import idle_of

GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.random((3000, 400), np.float32)
OTHERS = GENERATOR.random((3000, 400), np.float32)
CLASSES = GENERATOR.integers(0, 400, 3000)
ROWS = GENERATOR.random(3000, np.float32)
CE = {"type": "CrossEntropyLoss"}

CALLS = {
    "cross entropy": (CE, SCORES, CLASSES, {}),
    "weighted": (CE, SCORES, CLASSES, {"weight": ROWS, "avg_factor": 17.0}),
    "ignored": (CE | {"ignore_index": 3, "avg_non_ignore": True}, SCORES, CLASSES, {}),
    "unreduced": ({"type": "FocalLoss"}, SCORES, CLASSES, {"reduction_override": "none"}),
    "upstream": (CE, SCORES, CLASSES, {"reduction_override": "none", "grad_output": ROWS}),
    "doubles": ({"type": "MSELoss"}, SCORES.astype(float), OTHERS.astype(float), {}),
    "halves": ({"type": "SmoothL1Loss"}, SCORES.astype(np.float16), OTHERS.astype(np.float16), {}),
    "both gradients": ({"type": "L1Loss"}, SCORES, OTHERS, {"wrt": ("pred", "target")}),
    "of a weight": ({"type": "L1Loss"}, SCORES, OTHERS, {"weight": OTHERS, "wrt": ("weight",)}),
    "no gradient": (CE, SCORES, CLASSES, {"wrt": ()}),
    "probabilities": ({"type": "FocalLoss", "activated": True}, SCORES, CLASSES, {}),
    "not of rows": ({"type": "DiceLoss"}, SCORES, OTHERS, {}),
    "remembers": ({"type": "GHMR"}, SCORES, OTHERS, {"weight": np.ones_like(SCORES)}),
    "one row": ({"type": "L1Loss"}, SCORES.reshape(1, -1), OTHERS.reshape(1, -1), {}),
    "small": ({"type": "L1Loss"}, SCORES[:2], OTHERS[:2], {}),
}


@pytest.fixture
def line(server):
    """A line to the shared server."""
    found = Line(server.target, None, -1)
    yield found
    found.close()


def directly(call, line, timeout):
    """The answer to a call that goes over a direct connection, which is kept for the next."""
    found = directly_or_not(call, line, timeout)
    assert len(idle_of(line)) == 1
    return found


@pytest.fixture(params=[by_grpc, directly], ids=["by gRPC", "directly"])
def pieces(request):
    """Sends a call in pieces."""
    return request.param


@pytest.fixture(params=[by_grpc, directly_or_not], ids=["by gRPC", "no connection to be had"])
def pieces_by_grpc(request):
    """Sends a call in pieces to a server that has no direct connections."""
    return request.param


@pytest.mark.parametrize(("config", "pred", "target", "more"), CALLS.values(), ids=CALLS)
def test_the_answer_is_that_to_one_message(config, pred, target, more, pieces, line):
    """Whatever the loss does with its rows."""
    call = call_message(config, pred, target, **more)
    ours = decode_reply(pieces(call, line, 60), unpack)
    theirs = decode_reply(inline(call, line, 60), unpack)

    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)
    assert ours.grads.keys() == theirs.grads.keys()
    for name, grad in theirs.grads.items():
        assert ours.grads[name].dtype == grad.dtype
        np.testing.assert_allclose(ours.grads[name], grad, rtol=1e-5, atol=1e-9)


def test_gradients_are_memory_of_their_own(pieces, line):
    """Which may be written to, and need not be copied for that."""
    found = decode_reply(pieces(call_message(CE, SCORES, CLASSES), line, 60), unpack)

    assert found.grad.flags.writeable
    assert found.timings.compute > 0


def test_a_server_says_that_it_takes_pieces(client):
    """Beside its other planes."""
    assert "pieces" in client.server().planes


def test_a_deadline_ends_it(pieces_by_grpc, line):
    """On this side, whatever the server does."""
    with pytest.raises(DeadlineError, match=r"within the timeout of 0\.001 s"):
        pieces_by_grpc(call_message(CE, SCORES, CLASSES), line, 0.001)


def test_a_server_that_dies_is_unreachable(pieces_by_grpc, serve):
    """So the call is sent again, elsewhere."""
    server = serve()
    server.process.send_signal(signal.SIGSTOP)
    broken = Line(server.target, None, -1)
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(pieces_by_grpc, call_message(CE, SCORES, CLASSES), broken, 60)
        server.stop(signal.SIGKILL)
        with pytest.raises(UnreachableError):
            call.result()
    broken.close()


@contextmanager
def serving(*answers):
    """A line to a server of which ComputeLarge answers these messages; without them it has none."""
    grpc_server = grpc.server(futures.ThreadPoolExecutor(2))
    if answers:
        handler = grpc.stream_stream_rpc_method_handler(lambda *_: iter(answers))
        methods = {"ComputeLarge": handler}
        grpc_server.add_registered_method_handlers("losswire.v1.LossService", methods)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    line = Line(f"127.0.0.1:{port}", None, -1)
    yield line
    line.close()
    grpc_server.stop(None).wait()


def test_a_server_without_pieces_says_so(pieces_by_grpc):
    """Then the call goes another way."""
    why = r"^a server that has this must answer at .* \(Method not found!\)$"
    with serving() as line, pytest.raises(UnservedError, match=why):
        pieces_by_grpc(call_message(CE, SCORES, CLASSES), line, 60)


@pytest.mark.parametrize(
    "answers",
    [
        (b"\xff\xff",),
        (piece.write(0, 4, b"late"),),
        (piece.write(0, 0, b"loss"),),
        (piece.write(1, 0, b"grad"), frame.write(b"header", [])),
        (frame.write(b"header", []), piece.write(0, 0, b"loss")),
    ],
    ids=["no message", "a gap", "no header", "no first payload", "a piece after the header"],
)
def test_an_answer_that_is_none_is_the_server_s_fault(answers, pieces_by_grpc):
    """And not taken for one."""
    with serving(*answers) as line, pytest.raises(InternalError):
        pieces_by_grpc(call_message(CE, SCORES, CLASSES), line, 60)


def test_payloads_of_any_length_are_taken():
    """Also such as are longer than was expected."""
    answer = Answer(expected=2 << 20)
    contents = [bytes([i]) * (1 << 20) for i in range(5)]
    for i, content in enumerate(contents):
        answer.take(piece.write(0, i << 20, content))
        answer.take(piece.write(1, i, bytes([i])))
    answer.take(frame.write(b"header", []))
    found = answer.parts()

    assert isinstance(found, Parts)
    assert found.header == b"header"
    assert [bytes(one) for one in found.payloads] == [b"".join(contents), bytes(range(5))]
    assert not any(one.readonly for one in found.payloads)
    with pytest.raises(MessageError):
        answer.take(frame.write(b"another", []))


def test_tensors_that_stay_with_the_server_are_not_sent(client, pieces, line):
    """A call in pieces may name them as any other may."""
    handle = client.put(CLASSES)
    call = call_message(CE, SCORES, handle)
    found = decode_reply(carried(pieces, call, line, 60), unpack)
    expected = client.compute(CE, SCORES, CLASSES)

    assert found.loss == pytest.approx(expected.loss)
    np.testing.assert_allclose(found.grad, expected.grad, rtol=1e-5)
