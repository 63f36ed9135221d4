"""Many calls over one stream, by a client of another make: plain protobuf, and what it does wrong."""

import queue
import re
import signal
import threading
import urllib.request

import grpc
import numpy as np
import pytest

import lossclient
from lossclient.call import encode_call
from lossserver import streams
from losswire import frame
from losswire.v1 import loss_pb2 as pb
from losswire.v1 import loss_pb2_grpc
from tests.server.talk import Talk, error_of, loss_of, opening, request_of

FOCAL = {"type": "FocalLoss"}
SLOW = {"type": "BoundaryLoss"}


def labelled(*labels):
    """A call of classified rows, one of these labels each, of 0 to 2."""
    inputs = {"pred": np.ones((len(labels), 2), np.float32), "target": np.array(labels)}
    return pb.ComputeRequest.FromString(frame.write(*encode_call(FOCAL, inputs)))


@pytest.fixture
def talk(server):
    """Opens streams of the shared server."""
    with opening(Talk, server.target) as start:
        yield start


def test_calls_are_answered_by_their_ids(talk):
    """Several in one message, and one in the next; whatever numbers the client has chosen."""
    one = talk()
    one.say(*(pb.StreamCall(id=2**63 + i, request=request_of(i)) for i in range(5)))
    one.say(pb.StreamCall(id=0, request=request_of(9.0)))
    found = one.answers(6)

    assert {i: loss_of(answer) for i, answer in found.items()} == {
        0: 9.0,
        **{2**63 + i: float(i) for i in range(5)},
    }


def test_each_call_has_a_status_of_its_own(talk):
    """What is wrong with one call is nothing to the next, and neither to the stream."""
    wrong = pb.StreamCall(id=1, request=request_of(config={"type": "Nope"}))
    late = pb.StreamCall(id=2, timeout=0.0, request=request_of())
    never = pb.StreamCall(id=3, timeout=float("nan"), request=request_of())
    empty = pb.StreamCall(id=4)
    good = pb.StreamCall(id=5, timeout=30.0, request=request_of())
    one = talk()
    one.say(wrong, late, never, empty, good)
    found = one.answers(5)

    assert isinstance(error_of(found[1]), lossclient.UnknownLossError)
    assert isinstance(error_of(found[2]), lossclient.DeadlineError)
    assert isinstance(error_of(found[3]), lossclient.DeadlineError)
    assert isinstance(error_of(found[4]), lossclient.RequestError)
    assert loss_of(found[5]) == 1.0


def test_a_call_whose_request_is_no_message_fails_alone(talk):
    """Its neighbour in the same message is answered."""
    bad = b"\x08\x01\x22\x02\x0a\x7f"  # id 1, a request of two bytes that ends too early
    one = talk()
    one.send(b"\x0a" + bytes([len(bad)]) + bad)
    one.say(pb.StreamCall(id=2, request=request_of()))
    found = one.answers(2)

    assert isinstance(error_of(found[1]), lossclient.MessageError)
    assert loss_of(found[2]) == 1.0


@pytest.mark.parametrize("message", [b"\x0a\x7f", b"\x0f", b"\xff" * 20], ids=repr)
def test_what_is_no_message_ends_the_stream(talk, message):
    """With an error that says so."""
    one = talk()
    one.send(message)

    assert isinstance(one.end(), lossclient.MessageError)


def test_two_calls_of_one_id_end_the_stream(serve, talk):
    """Nobody could tell which of them an answer is to."""
    one = talk(serve("--max-wait", "2").target)
    one.say(
        pb.StreamCall(id=7, request=request_of(size=40_000)),
        pb.StreamCall(id=7, request=request_of(size=40_000)),
    )

    assert "id: must be of no other call in flight" in str(one.end())


def test_an_id_may_be_used_again(talk):
    """Once the call that had it is answered."""
    one = talk()
    for pred in (1.0, 2.0, 3.0):
        one.say(pb.StreamCall(id=1, request=request_of(pred)))
        assert loss_of(one.answers(1)[1]) == pred


def test_what_has_come_is_answered_when_the_client_ends_the_stream(talk):
    """It says that no more will come, not that nobody waits."""
    one = talk()
    one.say(*(pb.StreamCall(id=i, request=request_of()) for i in range(20)))
    one.send(None)

    assert sorted(one.answers(20)) == list(range(20))
    assert one.end() is None


def test_a_cancelled_call_is_dropped(serve, talk):
    """It is not answered, nor computed if it still waits; the others are."""
    server = serve("--max-wait", "30")
    one = talk(server.target)
    one.say(pb.StreamCall(id=1, request=request_of(size=40_000)), cancelled=[99])
    one.say(cancelled=[1])
    one.say(pb.StreamCall(id=2, request=request_of(config={"type": "Nope"})))

    assert list(one.answers(1)) == [2]
    server.stop()
    assert "status=CANCELLED" in server.log.read_text()


def test_a_call_in_the_message_that_cancels_it_is_dropped(talk):
    """Before it has begun."""
    one = talk()
    one.say(
        pb.StreamCall(id=1, request=request_of()),
        pb.StreamCall(id=2, request=request_of()),
        cancelled=[1],
    )

    assert list(one.answers(1)) == [2]


def test_the_deadline_of_a_call_ends_it(serve, talk):
    """While it waits for company, which nobody else ends."""
    one = talk(serve("--max-wait", "50").target)
    one.say(pb.StreamCall(id=1, timeout=0.2, request=request_of(size=40_000)))

    assert isinstance(error_of(one.answers(1)[1]), lossclient.DeadlineError)


def test_a_connection_has_few_streams(talk):
    """One more than that is refused, and the others go on."""
    many = talk()
    opened = []
    for _ in range(streams.STREAMS - 1):
        method = loss_pb2_grpc.LossServiceStub(many._channel).ComputeStream
        to_send = queue.SimpleQueue()
        to_send.put(pb.ComputeStreamRequest(calls=[pb.StreamCall(id=1, request=request_of())]))
        opened.append((to_send, method(iter(to_send.get, None))))
        assert loss_of(next(opened[-1][1]).answers[0]) == 1.0
    many.say(pb.StreamCall(id=1, request=request_of()))
    many.answers(1)
    with pytest.raises(grpc.RpcError) as refused:
        next(loss_pb2_grpc.LossServiceStub(many._channel).ComputeStream(iter([])))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for to_send, _ in opened:
        to_send.put(None)


def test_a_client_that_does_not_read_is_not_read_from(serve, talk):
    """Its answers fill its line, its calls stay with it, and another is served meanwhile."""
    server = serve("--max-calls-in-flight", "100000")
    silent = talk(server.target)
    sent = threading.Semaphore(0)
    message = pb.ComputeStreamRequest(
        calls=[pb.StreamCall(id=1, request=request_of(size=4096))]
    ).SerializeToString()

    def numbered():
        for number in range(1_000_000):
            sent.release()
            call = pb.ComputeStreamRequest.FromString(message)
            call.calls[0].id = number
            yield call.SerializeToString()

    call = silent._channel.stream_stream("/losswire.v1.LossService/ComputeStream")(numbered())
    taken = 0
    while sent.acquire(timeout=2):
        taken += 1
    one = talk(server.target)
    one.say(pb.StreamCall(id=1, request=request_of()))

    assert loss_of(one.answers(1)[1]) == 1.0
    assert taken < 3000
    call.cancel()


def test_a_client_that_does_not_read_of_its_regions_is_not_read_from(serve, talk):
    """What became of regions takes memory, too, until it is read."""
    server = serve()
    message = pb.ComputeStreamRequest(open=[pb.OpenRegion()] * 4000).SerializeToString()
    sent = threading.Semaphore(0)

    def asking():
        while True:
            sent.release()
            yield message

    silent = talk(server.target)
    call = silent._channel.stream_stream("/losswire.v1.LossService/ComputeStream")(asking())
    taken = 0
    while taken < 100 and sent.acquire(timeout=2):
        taken += 1

    assert taken < 50
    call.cancel()


def test_a_server_that_is_stopped_answers_and_ends_its_streams(serve, talk):
    """What it has is answered, the client is sent elsewhere, and an idle stream holds nothing up."""
    server = serve("--max-wait", "50")
    idle, busy = talk(server.target), talk(server.target)
    idle.say(pb.StreamCall(id=1, request=request_of(config={"type": "Nope"})))
    idle.answers(1)
    busy.say(pb.StreamCall(id=1, request=request_of(size=40_000)))
    busy.say(pb.StreamCall(id=2, request=request_of(config={"type": "Nope"})))
    busy.answers(1)  # so the first is in as well
    code = server.stop(signal.SIGTERM)

    assert code == 0
    assert loss_of(busy.answers(1)[1]) == 1.0
    for one in (idle, busy):
        assert isinstance(one.end(), lossclient.DrainingError)


def test_a_client_that_hangs_up_leaves_nothing(serve, talk):
    """Its calls are given up; the server counts none in flight and ends at once."""
    server = serve("--max-wait", "50")
    one = talk(server.target)
    one.say(*(pb.StreamCall(id=i, request=request_of(size=40_000)) for i in range(9)))
    one.say(pb.StreamCall(id=9, request=request_of(config={"type": "Nope"})))
    one.answers(1)
    one.call.cancel()
    server.find(re.compile(r"(status=CANCELLED[\s\S]*){9}"))

    assert server.stop() == 0


def alike(count, first=1, **more):
    """Calls that differ in their ids and numbers alone: the loss of each is its id."""
    return [
        pb.StreamCall(id=i, request=request_of(float(i)), **more)
        for i in range(first, first + count)
    ]


def losses_of(answers):
    """The loss of each answer, by id."""
    return {number: loss_of(answer) for number, answer in answers.items()}


def test_calls_that_are_alike_are_worked_on_as_one(serve, talk, unused_port):
    """Each has its own answer and is counted; a line of the log says of how many it is."""
    server = serve("--metrics-port", str(unused_port))
    one = talk(server.target)
    one.say(*alike(20))
    found = one.answers(20)
    server.find(re.compile(r"compute loss=L1Loss elements=160 calls=20 batch=20 .* status=OK"))
    seen = ""
    while "lossserver_calls_in_flight 0" not in seen:  # it is so a moment after they are answered
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as page:
            seen = page.read().decode()

    assert losses_of(found) == {i: float(i) for i in range(1, 21)}
    assert {answer.response.header.timings.batch for answer in found.values()} == {20}
    assert 'lossserver_calls_total{loss="L1Loss",status="OK"} 20.0' in seen
    assert "lossserver_in_flight_bytes 0" in seen


def test_calls_that_are_alike_and_others_are_told_apart(talk):
    """Of another shape, loss, timeout or length of id, before, between and after."""
    one = talk()
    calls = [
        *alike(3),
        *alike(4, 126),
        *alike(3, 10, timeout=30.0),
        *alike(2, 20, timeout=29.0),
        *(pb.StreamCall(id=i, request=request_of(float(i), size=8)) for i in (30, 31)),
        *alike(2, 2**63),
        *alike(70, 200),
    ]
    one.say(*calls)

    assert losses_of(one.answers(len(calls))) == {
        call.id: pytest.approx(float(call.id)) for call in calls
    }


def test_one_wrong_label_is_its_call_s_alone(serve, talk):
    """The others of its kind have their results, each worked on by itself."""
    server = serve()
    one = talk(server.target)
    labels = [(0, 1), (1, 2), (0, 9), (2, 2), (0, 1)]
    calls = [pb.StreamCall(id=i, request=labelled(*own)) for i, own in enumerate(labels, 1)]
    one.say(*calls)
    found = one.answers(5)
    one.say(*(call for call in calls if call.id != 3))
    again = one.answers(4)

    assert "target" in str(error_of(found.pop(3)))
    assert losses_of(found) == pytest.approx(losses_of(again))
    assert found[1].response.payloads == found[5].response.payloads
    server.find(re.compile(r"calls=4 batch=4"))
    assert "calls=5" not in server.log.read_text()


def test_two_of_many_calls_with_one_id_end_the_stream(serve, talk):
    """Nobody could tell whose answer is whose; the server goes on, and keeps nothing of them."""
    server = serve()
    one, other = talk(server.target), talk(server.target)
    one.say(*alike(3), *alike(3))
    error = one.end()
    other.say(*alike(3))

    assert "id: must be of no other call in flight" in str(error)
    assert losses_of(other.answers(3)) == {1: 1.0, 2: 2.0, 3: 3.0}
    other.send(None)
    assert other.end() is None
    assert server.stop() == 0


def test_one_of_many_calls_may_be_cancelled(serve, talk):
    """The others are answered all the same."""
    server = serve("--max-wait", "50")
    one = talk(server.target)
    one.say(*alike(5))
    one.say(cancelled=[2, 99])
    one.say(pb.StreamCall(id=9, request=request_of(config={"type": "Nope"})))
    assert list(one.answers(1)) == [9]
    server.process.send_signal(signal.SIGTERM)  # so nothing waits for company any longer
    found = one.answers(4)

    assert {1, 3, 4, 5} <= found.keys() <= {1, 2, 3, 4, 5}
    assert all(loss_of(answer) == number for number, answer in found.items())


def test_many_calls_may_be_cancelled_together(serve, talk):
    """None is answered, nor computed; each counts as cancelled."""
    server = serve("--max-wait", "50")
    one = talk(server.target)
    one.say(*alike(5), *alike(3, 10), pb.StreamCall(id=20, request=request_of(size=8)))
    one.say(cancelled=range(1, 13))
    server.find(re.compile(r"calls=8 status=CANCELLED"))
    one.say(cancelled=[20])
    server.find(re.compile(r"elements=16 status=CANCELLED"))

    assert server.stop() == 0


def test_many_calls_in_the_message_that_cancels_some_are_answered(talk):
    """But for those, which have not begun."""
    one = talk()
    one.say(*alike(9), cancelled=[3, 4])

    assert losses_of(one.answers(7)) == {i: float(i) for i in (1, 2, 5, 6, 7, 8, 9)}


def test_the_deadline_of_many_calls_ends_each(serve, talk):
    """While they wait for company; others go on waiting."""
    server = serve("--max-wait", "50")
    one = talk(server.target)
    one.say(*alike(5, timeout=0.2), *alike(2, 10))
    found = one.answers(5)

    assert all(isinstance(error_of(found[i]), lossclient.DeadlineError) for i in range(1, 6))
    server.find(re.compile(r"calls=5 status=DEADLINE_EXCEEDED"))


def test_many_calls_without_time_or_of_a_time_that_is_no_number_are_late(talk):
    """Each of them, as alone."""
    one = talk()
    one.say(*alike(3, timeout=float("nan")), *alike(3, 10, timeout=-1.0))
    found = one.answers(6)

    assert all(isinstance(error_of(one), lossclient.DeadlineError) for one in found.values())


def test_a_client_that_hangs_up_leaves_none_of_many(serve, talk):
    """All of them are given up, and the server ends at once."""
    server = serve("--max-wait", "50")
    one = talk(server.target)
    one.say(*alike(9))
    one.say(pb.StreamCall(id=99, request=request_of(config={"type": "Nope"})))
    one.answers(1)
    one.call.cancel()
    server.find(re.compile(r"calls=9 status=CANCELLED"))

    assert server.stop() == 0
