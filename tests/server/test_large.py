"""One call in pieces, by a client of another make: plain protobuf, and what it does wrong."""

import re
import urllib.request

import numpy as np
import pytest

import lossclient
from lossclient.call import call_message
from lossclient.pieces import pieces
from lossclient.reply import decode_reply
from losswire.errors import DeadlineError, MessageError, MessageTooLargeError
from losswire.tensor import unpack
from losswire.v1 import loss_pb2 as pb
from tests.server.large_calls import CE, PATIENCE, Made, Talk, beginning, labels_like, piece

#: Looks at pred's values before it computes, so it cannot be streamed.
ACTIVATED = {"type": "FocalLoss", "activated": True}
#: Not a loss of rows.
DICE = {"type": "DiceLoss"}


@pytest.fixture
def talk(server):
    """Begins calls of the shared server, or of another."""
    with beginning(Talk, server.target) as begin:
        yield begin


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"step": 100_003},
        {"step": 3 << 20, "rows": 2000},
        {"reduction_override": "none"},
        {"reduction_override": "none", "wrt": ()},
        {"config": {"type": "FocalLoss"}, "avg_factor": 3.0},
        {"config": ACTIVATED},
        {"config": ACTIVATED, "step": 100_003},
        {"config": DICE, "rows": 64, "columns": 64, "step": 1000, "target": labels_like},
        {"rows": 3, "columns": 5},
        {"rows": 0, "columns": 5},
    ],
    ids=[
        "rows",
        "pieces that end within a row",
        "large pieces",
        "unreduced",
        "no gradient",
        "a divisor",
        "assembled",
        "assembled of odd pieces",
        "not of rows",
        "tiny",
        "empty",
    ],
)
def test_a_call_in_pieces_is_answered_as_one_in_a_message(given, talk, client):
    """Streamed or put together first, and however it was cut."""
    made, one = Made(**given), talk()
    one.say(*made.messages, None)

    made.assert_answered(one.answer(), client)


def test_the_gradient_of_rows_comes_before_all_rows_were_sent(talk):
    """Both directions at once: the last piece waits for the gradient of the first."""
    *first, last = Made().messages
    one = talk()
    one.say(*first)
    early = next(one.call).piece
    one.say(last, None)
    header, payloads = one.answer(early)

    assert (early.payload, early.offset) == (header.grads["pred"].tensor_value.payload, 0)
    assert len(payloads[early.payload]) == 512 * 2048 * 4


MADE = Made()
WRONG = {
    "a piece before the header": ([MADE.pred_pieces[0]], "must begin with its header"),
    "two headers": ([MADE.header, MADE.header], "must have one piece"),
    "no protobuf": ([b"\xff\xff"], "must be whole"),
    "a header that is none": ([b"\x0a\x02\xff\xff"], "must be a losswire.v1.ComputeHeader"),
    "pred before target": ([MADE.header, MADE.pred_pieces[0]], "in order"),
    "a gap": ([*MADE.messages[:3], MADE.messages[4]], "in order"),
    "an overlap": ([*MADE.messages[:3], piece(0, 1000, bytes(4))], "in order"),
    "no such payload": ([*MADE.messages[:3], piece(9, 1 << 20, bytes(4))], "in order"),
    "an empty piece": ([*MADE.messages[:3], piece(0, 1 << 20, b"")], "1 to"),
    "beyond its payload": ([*MADE.messages[:-1], piece(0, 3 << 20, bytes(2 << 20))], "at most"),
    "a piece too large": ([*MADE.messages[:2], piece(0, 0, bytes((16 << 20) + 4))], "1 to"),
    "a missing piece": ([*MADE.messages[:-1], None], "must be whole"),
    "nothing": ([None], "must begin with its header"),
    "a piece too many": ([*MADE.messages, piece(0, 4 << 20, bytes(4))], "no message may follow"),
    "a piece cut short": ([MADE.header, b"\x12\x05\x1a\x0aabc"], "must be whole"),
}


@pytest.mark.parametrize(("messages", "rule"), WRONG.values(), ids=WRONG)
def test_pieces_that_do_not_fit_are_refused(messages, rule, talk):
    """With a message that says which was expected, whatever had come before."""
    one = talk()
    one.say(*messages)
    told = one.refusal()

    assert isinstance(told, MessageError)
    assert rule in str(told)


def test_a_header_that_promises_too_much_is_refused_at_once(talk):
    """Before anything is allocated or sent, however much it says that will come."""
    made, one = Made(DICE, 4, 4, target=labels_like), talk()
    made.header.header.inputs["pred"].tensor_value.shape[:] = [1 << 40, 1 << 20]
    made.header.header.inputs["target"].tensor_value.shape[:] = [1 << 40, 1 << 20]
    one.say(made.header)

    assert isinstance(one.refusal(), MessageTooLargeError)


@pytest.mark.parametrize("shape", [[1 << 40, 1 << 40], [1 << 62] * 20_000], ids=["two", "many"])
@pytest.mark.parametrize("name", ["pred", "target"])
def test_a_shape_beyond_all_numbers_is_refused(name, shape, talk):
    """As the caller's fault, and at once."""
    made, one = Made(), talk()
    made.header.header.inputs[name].tensor_value.shape[:] = shape
    one.say(made.header)

    assert isinstance(one.refusal(), MessageTooLargeError)


def test_tensors_count_as_what_they_are_widened_to(serve, talk):
    """Also where pred is on its way: 2 MiB of bits are 128 MiB of int64."""
    most = str(128 << 20)
    one = talk(serve("--max-bytes-in-flight", most, "--max-message-bytes", most).target)
    header = Made({"type": "L1Loss"}, target=labels_like).header
    pred, target = (header.header.inputs[name].tensor_value for name in ("pred", "target"))
    target.dtype, target.wire = pb.DTYPE_INT64, pb.DTYPE_BIT
    pred.shape[:] = target.shape[:] = [4096, 4096]
    one.say(header, piece(target.payload, 0, bytes(2 << 20)))

    assert isinstance(one.refusal(), MessageTooLargeError)


def test_a_refusal_of_the_loss_is_its_own(talk):
    """Also of a call whose pred was never sent: its targets are enough to say so."""
    one = talk()
    one.say(MADE.header, piece(1, 0, np.full(512, 5000).tobytes()))

    assert "a class index must be in 0..2047" in str(one.refusal())


SMALL = ["--max-message-bytes", str(100 << 20), "--max-bytes-in-flight", str(100 << 20)]


def test_a_call_larger_than_all_limits_is_streamed(serve):
    """What it holds counts, not what it is; and of one that is put together all of it."""
    server = serve(*SMALL)
    pred = np.zeros((27 << 10, 1 << 10), np.float32)
    target = np.zeros(27 << 10, np.int64)
    with lossclient.connect(server.target) as client:
        line = client.transport.targets.order()[0].line
        found = decode_reply(pieces(call_message(CE, pred, target), line, PATIENCE), unpack)
        with pytest.raises(MessageTooLargeError):
            pieces(call_message(ACTIVATED, pred, target), line, PATIENCE)

    assert found.loss == pytest.approx(np.log(1 << 10))
    assert found.grad.shape == pred.shape


def test_callers_that_hang_or_do_not_read_leave_nothing(serve, unused_port):
    """Their calls end with their deadlines, and all that they held is free."""
    server = serve("--metrics-port", str(unused_port))
    silent, deaf = Talk(server.target, timeout=1), Talk(server.target, timeout=1)
    large = Made(rows=1 << 13)
    silent.say(*large.messages[:5])
    deaf.say(*large.messages, None)
    told = silent.refusal()
    server.find(re.compile(r"(compute [^\n]*status=CANCELLED.*){2}", re.DOTALL))
    for one in (silent, deaf):
        one.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as page:
        seen = page.read().decode()

    assert isinstance(told, DeadlineError)
    assert "lossserver_in_flight_bytes 0" in seen
    assert "lossserver_calls_in_flight 0" in seen
