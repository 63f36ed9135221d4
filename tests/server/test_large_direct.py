"""One call over a direct connection, by a client of another make: raw sockets, plain gRPC and protobuf."""

import re
import signal
import struct
import threading
import urllib.request

import numpy as np
import pytest

from losswire.direct import END, MAGIC, NAME
from losswire.errors import (
    DeadlineError,
    MessageError,
    NotServedError,
    UnreachableError,
)
from losswire.v1 import loss_pb2 as pb
from tests.server.large_calls import Made, Talk, beginning, labels_like
from tests.server.talk import connected, descriptors

#: Looks at pred's values before it computes, so it cannot be streamed.
ACTIVATED = {"type": "FocalLoss", "activated": True}
#: Not a loss of rows.
DICE = {"type": "DiceLoss"}


def head(payload, length):
    """What stands before a piece."""
    return struct.pack("<QQ", payload, length)


def framed(piece):
    """A piece as it goes over a connection."""
    return head(piece.piece.payload, len(piece.piece.content)) + piece.piece.content


class Directly(Talk):
    """One ComputeLarge whose pieces go over a connection, a new one if none is given."""

    def __init__(self, target, connection=None, **more):
        super().__init__(target, **more)
        self.line, self.name = connection or connected(target)
        self._told = self.line.makefile("rb")

    def begin(self, header, name=None):
        """Send the first message, and there is no other."""
        named = pb.ComputeLargeRequest(direct=self.name if name is None else name)
        named.MergeFrom(header)
        self.say(named, None)

    def send(self, *pieces):
        """Send pieces over the connection; bytes as they are."""
        self.line.sendall(b"".join(p if isinstance(p, bytes) else framed(p) for p in pieces))

    def ask(self, made):
        """The answer to a call, of which pieces go out while others come in."""
        self.begin(made.header)
        sending = threading.Thread(target=self.send, args=made.messages[1:])
        sending.start()
        try:
            return self.answer()
        finally:
            sending.join()

    def piece(self):
        """The next piece: the number of its payload, and its content."""
        payload, length = struct.unpack("<QQ", self._told.read(16))
        return payload, self._told.read(length)

    def answer(self, *early):
        """The header, and the payloads by number; `early` are pieces that have come already."""
        payloads = {}
        found = iter(early)
        while (came := next(found, None) or self.piece())[0] != END:
            payloads[came[0]] = payloads.get(came[0], b"") + came[1]
        (message,) = self.call
        return message.header, payloads

    def refusal(self):
        """What the server says is wrong, by gRPC; and it has closed the connection."""
        told = super().refusal()
        self._told.close()
        assert self.hung_up()
        return told

    def hung_up(self):
        """Whether the server has closed the connection, what it has sent before passed over."""
        try:
            while self.line.recv(1 << 20):
                pass
        except ConnectionResetError:  # it had not read all
            pass
        return True

    def close(self):
        """Hang up, both ways."""
        self._told.close()
        self.line.close()
        super().close()


@pytest.fixture
def talk(server):
    """Begins calls of the shared server, or of another."""
    with beginning(Directly, server.target) as begin:
        yield begin


CALLS = {
    "rows": {},
    "pieces that end within a row": {"step": 100_003},
    "large pieces": {"step": 3 << 20, "rows": 2000},
    "pieces of the largest size": {"step": 16 << 20, "rows": 3000},
    "unreduced": {"reduction_override": "none"},
    "no gradient": {"reduction_override": "none", "wrt": ()},
    "assembled": {"config": ACTIVATED},
    "assembled of odd pieces": {"config": ACTIVATED, "step": 100_003},
    "not of rows": {"config": DICE, "rows": 64, "columns": 64, "target": labels_like},
    "tiny": {"rows": 3, "columns": 5},
    "empty": {"rows": 0, "columns": 5},
}


@pytest.mark.parametrize("given", CALLS.values(), ids=CALLS)
def test_a_call_is_answered_as_one_in_a_message(given, talk, client):
    """Streamed or put together first, and however it was cut."""
    made = Made(**given)

    made.assert_answered(talk().ask(made), client)


def test_a_connection_is_for_one_call_after_another(server, talk, client):
    """Also for one of another shape."""
    connection = connected(server.target)
    for given in ({}, {"config": DICE, "rows": 8, "columns": 8, "target": labels_like}, {}):
        made = Made(**given)
        made.assert_answered(talk(connection=connection).ask(made), client)


def test_the_gradient_of_rows_comes_before_all_rows_were_sent(talk):
    """Both directions at once: the last piece waits for the gradient of the first."""
    made, one = Made(), talk()
    one.begin(made.header)
    *first, last = made.messages[1:]
    one.send(*first)
    early = one.piece()
    one.send(last)
    header, payloads = one.answer(early)

    assert early[0] == header.grads["pred"].tensor_value.payload
    assert len(payloads[early[0]]) == 512 * 2048 * 4


MADE = Made()
TARGET, (FIRST, *_) = MADE.target_pieces, MADE.pred_pieces
WRONG = {
    "pred before target": ([FIRST], "in order"),
    "no such payload": ([*TARGET, head(9, 4)], "in order"),
    "target again": ([*TARGET, *TARGET], "in order"),
    "the end of an answer": ([*TARGET, head(END, 0)], "in order"),
    "an empty piece": ([*TARGET, head(0, 0)], "1 to"),
    "a piece too large": ([*TARGET, head(0, (16 << 20) + 1)], "1 to"),
    "a piece beyond all memory": ([*TARGET, head(0, (1 << 64) - 1)], "1 to"),
    "beyond its payload": ([*TARGET, FIRST, head(0, (3 << 20) + 1)], "at most"),
    "bytes that are no pieces": ([b"GET / HTTP/1.1\r\n\r\n"], "in order"),
}


@pytest.mark.parametrize(("pieces", "rule"), WRONG.values(), ids=WRONG)
def test_pieces_that_do_not_fit_are_refused(pieces, rule, talk):
    """By their heads, with a message that says which was expected; and the connection ends."""
    one = talk()
    one.begin(MADE.header)
    one.send(*pieces)
    told = one.refusal()

    assert isinstance(told, MessageError)
    assert rule in str(told)


BROKEN = {
    "before anything": [],
    "amid a head": [head(1, 4096)[:5]],
    "amid a piece": [framed(TARGET[0])[:-1]],
    "between pieces": [*TARGET, FIRST],
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_connection_that_ends_amid_a_call_ends_it(sent, talk):
    """And says that the call may be sent again."""
    one = talk()
    one.begin(MADE.header)
    one.send(*sent)
    one.line.shutdown(1)
    told = one.refusal()

    assert isinstance(told, UnreachableError)
    assert "must last for as long as the call" in str(told)


def test_a_call_may_send_nothing_by_grpc_but_its_header(talk):
    """Where all else goes over the connection."""
    made, one = Made(rows=3, columns=5), talk()
    named = pb.ComputeLargeRequest(direct=one.name)
    named.MergeFrom(made.header)
    one.send(*made.messages[1:])
    one.say(named, *made.messages[1:])

    assert "no message may follow" in str(Talk.refusal(one))


def test_the_name_of_another_call_s_is_refused(talk, client):
    """Which goes on as if nothing was."""
    one = talk()
    one.begin(MADE.header)
    one.send(*TARGET, FIRST)
    early = one.piece()
    other = talk()
    other.begin(MADE.header, one.name)

    assert isinstance(Talk.refusal(other), NotServedError)
    one.send(*MADE.pred_pieces[1:])
    MADE.assert_answered(one.answer(early), client)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (bytes(NAME), NotServedError),
        (MAGIC, NotServedError),
        (b"x", MessageError),
        (bytes(NAME + 1), MessageError),
    ],
    ids=["nobody's", "the greeting", "short", "long"],
)
def test_what_is_no_name_of_an_idle_one_is_refused(name, error, talk, client):
    """And the caller's own connection is idle still."""
    one = talk()
    one.begin(MADE.header, name)

    assert isinstance(Talk.refusal(one), error)
    MADE.assert_answered(talk(connection=(one.line, one.name)).ask(MADE), client)


def test_a_refusal_of_the_loss_is_its_own(talk):
    """Also of a call whose pred was never sent: its targets are enough to say so."""
    one = talk()
    one.begin(MADE.header)
    one.send(head(1, 4096), np.full(512, 5000).tobytes())

    assert "a class index must be in 0..2047" in str(one.refusal())


def test_whatever_callers_do_nothing_is_left(serve, talk, unused_port):
    """Those that hang, do not read, hang up or are wrong: all that they held is free."""
    server = serve("--metrics-port", str(unused_port))
    large = Made(rows=1 << 13)
    talk(server.target).ask(MADE)
    before = descriptors(server.process.pid)
    silent, deaf, gone, wrong = (talk(server.target, timeout=seconds) for seconds in (1, 1, 60, 60))
    for one in (silent, deaf, gone, wrong):
        one.begin(large.header)
    silent.send(*large.messages[1:3])
    deaf.line.setblocking(False)
    pouring = b"".join(map(framed, large.messages[1:]))
    gone.send(*large.messages[1:3], framed(large.messages[3])[:1000])
    gone.call.cancel()
    wrong.send(head(0, 4))
    while pouring:
        try:
            pouring = pouring[deaf.line.send(pouring) :]
        except BlockingIOError:
            if not deaf.call.is_active():
                break
        except ConnectionError:
            break
    told = silent.refusal(), wrong.refusal()
    server.find(re.compile(r"(compute [^\n]*status=CANCELLED.*){3}", re.DOTALL))
    for one in (silent, deaf, gone, wrong):
        one.close()
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as page:
        seen = page.read().decode()

    assert [type(one) for one in told] == [DeadlineError, MessageError]
    assert "lossserver_in_flight_bytes 0" in seen
    assert "lossserver_calls_in_flight 0" in seen
    assert descriptors(server.process.pid) <= before + 5  # connections that gRPC closes later


def test_a_server_that_is_stopped_finishes_what_it_has(serve, talk, client):
    """Also what is still to come of it; idle connections end."""
    server = serve()
    one, (idle, _) = talk(server.target), connected(server.target)
    one.begin(MADE.header)
    one.send(*TARGET, FIRST)
    early = one.piece()
    server.process.send_signal(signal.SIGTERM)
    server.find(re.compile("draining"))
    one.send(*MADE.pred_pieces[1:])

    MADE.assert_answered(one.answer(early), client)
    assert server.process.wait(60) == 0
    assert one.hung_up()
    with idle:
        assert idle.recv(1) == b""
