"""lossclient.reading: who reads a bypass, and that nobody waits for what nobody reads."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

import lossclient
from lossclient import reading
from lossclient.bypass import Bypass
from lossclient.reading import Reading
from lossclient.waiting import Waiting
from losswire.bypass import framed
from losswire.errors import MessageTooLargeError
from tests.client.streams import reading_of, stream_of
from tests.conftest import PATIENCE

L1 = {"type": "L1Loss"}
ZERO = np.zeros(4, np.float32)
ONE = np.ones(4, np.float32)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A caller that looks for its answer looks for as long as a test may take."""
    monkeypatch.setattr(reading, "AWAKE", PATIENCE)


class Line:
    """Both ends of a bypass, the thread that reads ours, and calls that wait for each its message.

    Attributes:
        readers: of each message by which thread it was taken.
    """

    def __init__(self):
        ours, self.theirs = socket.socketpair()
        self.bypass = Bypass(ours)
        self.waiting = {}
        self.readers = {}
        self.over = SimpleQueue()
        self.reading = Reading(self.bypass, self._take, lambda: len(self.waiting))
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        try:
            self.over.put(self.reading.all())
        except MessageTooLargeError as error:
            self.over.put(error)

    def _take(self, message):
        name = bytes(message)
        if name == b"interrupt":
            raise KeyboardInterrupt
        self.readers[name] = threading.current_thread()
        if name in self.waiting:
            self.waiting.pop(name).settle(None)

    def expect(self, *names):
        """What waits for each of these messages."""
        found = [Waiting() for _ in names]
        self.waiting.update(zip(names, found, strict=True))
        return found

    def say(self, *names):
        """Send these messages."""
        for name in names:
            self.theirs.sendall(b"".join(framed([name])))

    def asleep(self):
        """Wait until the thread reads no more."""
        while self.reading._wanted.is_set() or self.reading._turn.locked():
            threading.Event().wait(0.001)


@pytest.fixture
def line():
    """A line with nothing under way, on which answers have come soon."""
    made = Line()
    made.asleep()
    made.reading.took(0.0)
    yield made
    made.reading.end()
    made.thread.join(PATIENCE)
    assert not made.thread.is_alive()
    made.bypass.close()
    made.theirs.close()


def test_a_lone_caller_reads_its_own_answer(line):
    """No thread is woken, neither before nor after it."""
    for name in (b"first", b"second"):
        (waiting,) = line.expect(name)
        line.say(name)
        line.reading.look(waiting, None)

        assert waiting.ended
        assert line.readers[name] is threading.current_thread()
        assert not line.reading._wanted.is_set()


def test_where_answers_take_long_the_thread_reads(line):
    """The caller waits as it would for anything else."""
    line.reading.took(2 * PATIENCE)
    (waiting,) = line.expect(b"late")
    line.reading.look(waiting, None)
    line.say(b"late")

    assert waiting.wait(PATIENCE)
    assert line.readers[b"late"] is line.thread


def test_a_caller_that_has_looked_in_vain_waits(line, monkeypatch):
    """No longer than it is awake, nor than its timeout; then the thread reads."""
    for timeout in (0.001, None):
        (waiting,) = line.expect(b"late")
        if timeout is None:
            monkeypatch.setattr(reading, "AWAKE", 0.001)
        line.reading.look(waiting, timeout)
        assert not waiting.ended
        line.say(b"late")

        assert waiting.wait(PATIENCE)
        assert line.readers.pop(b"late") is line.thread
        line.asleep()


def test_a_caller_beside_others_leaves_the_reading_to_the_thread(line):
    """Who decodes their answers, and calls back, must not hold up the caller."""
    other, own = line.expect(b"other", b"own")
    line.say(b"other", b"own")
    line.reading.look(own, None)

    assert own.wait(PATIENCE)
    assert other.wait(PATIENCE)
    assert set(line.readers.values()) == {line.thread}


def test_what_comes_meanwhile_for_others_is_theirs(line):
    """Whoever reads it. Who leaves with something still to come hands the reading on."""
    (own,) = line.expect(b"own")
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(line.reading.look, own, None)
        while not line.reading._turn.locked():
            threading.Event().wait(0.001)
        first, last = line.expect(b"first", b"last")
        line.say(b"first")
        assert first.wait(PATIENCE)
        line.say(b"own")
        looking.result(PATIENCE)
    line.say(b"last")

    assert last.wait(PATIENCE)
    assert line.readers[b"first"] is line.readers[b"own"] is not line.thread
    assert line.readers[b"last"] is line.thread


def test_what_nobody_waits_for_any_longer_is_read(line, monkeypatch):
    """Else the server could not send it, and would hold on to all that it takes up."""
    monkeypatch.setattr(reading, "PAUSE", 0.01)
    line.reading.want()  # so that the pause begins anew
    line.say(b"too late")
    while b"too late" not in line.readers:
        threading.Event().wait(0.001)

    assert line.readers[b"too late"] is line.thread


def test_a_server_that_hangs_up_meanwhile_is_noticed(line, monkeypatch):
    """Before the next call, which then goes by another stream."""
    monkeypatch.setattr(reading, "PAUSE", 0.01)
    line.reading.want()
    line.theirs.close()

    assert line.over.get(timeout=PATIENCE) is None


def test_who_is_found_by_others_looks_no_longer(line):
    """Its answer may come by gRPC, or the stream may end."""
    (waiting,) = line.expect(b"never")
    ready = threading.Event()

    def settle():
        ready.wait(PATIENCE)
        waiting.give_up()
        line.waiting.clear()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(settle)
        ready.set()
        line.reading.look(waiting, None)
        done.result()

    assert waiting.ended


def test_of_an_interrupted_caller_nothing_more_is_read(line):
    """What it had received may be another's: no half of a message is taken for a whole one."""
    (own,) = line.expect(b"own")
    line.say(b"interrupt", b"own", b"other")
    with pytest.raises(KeyboardInterrupt):
        line.reading.look(own, None)

    assert line.over.get(timeout=PATIENCE) is None
    assert line.readers == {}
    assert not line.reading._turn.locked()


def test_a_server_that_hangs_up_ends_the_reading(line):
    """Whoever finds out."""
    (waiting,) = line.expect(b"never")
    line.theirs.close()
    line.reading.look(waiting, None)

    assert not waiting.ended
    assert line.over.get(timeout=PATIENCE) is None


def test_what_is_no_message_is_told_to_who_reads_it(line):
    """And nothing is read after it."""
    (waiting,) = line.expect(b"own")
    line.theirs.sendall(b"\xff" * 8)
    with pytest.raises(MessageTooLargeError):
        line.reading.look(waiting, None)

    assert line.over.get(timeout=PATIENCE) is None


@pytest.fixture
def looking(server):
    """A client whose next call looks for its own answer."""
    with lossclient.connect(server.target) as client:
        client.compute(L1, ONE, ZERO)
        reading_of(client)
        client.compute(L1, ONE, ZERO)
        yield client


def test_an_interrupted_call_costs_its_stream_and_no_more(looking, monkeypatch):
    """The next call opens another."""
    one = reading_of(looking)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        looking.compute(L1, ONE, ZERO)

    assert looking.compute(L1, 2 * ONE, ZERO).loss == 2.0
    assert reading_of(looking) is not one


def test_an_interrupted_call_costs_no_other(looking, monkeypatch):
    """One that was in flight on its stream is sent again."""
    one = reading_of(looking)
    flying = stream_of(looking)._flying
    pool = ThreadPoolExecutor(1)
    others = []

    def interrupted(_):
        others.append(pool.submit(looking.compute, L1, 3 * ONE, ZERO, timeout=PATIENCE))
        while len(flying) < 2:
            threading.Event().wait(0.001)
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_take", interrupted)
    with pool, pytest.raises(KeyboardInterrupt):
        looking.compute(L1, ONE, ZERO)

    assert [other.result(PATIENCE).loss for other in others] == [3.0]


def test_an_answer_that_is_no_message_is_told(looking, monkeypatch):
    """As it is by the thread that reads."""
    monkeypatch.setattr(reading_of(looking)._bypass, "receive", garbage)
    with pytest.raises(lossclient.InternalError, match="ComputeStreamResponse"):
        looking.compute(L1, ONE, ZERO, timeout=PATIENCE)

    assert looking.compute(L1, 2 * ONE, ZERO).loss == 2.0


def garbage(room):
    """A message that is none."""
    room[:12] = b"".join(framed([b"\x0a\x05ab"]))
    return 12


@pytest.mark.parametrize("awake", [0.0, 0.001, 0.1])
def test_each_has_its_own_answer_whoever_reads(server, monkeypatch, awake):
    """Threads that call, submit and send lists of one stream, with pauses in which the thread sleeps."""
    monkeypatch.setattr(reading, "AWAKE", awake)
    with lossclient.connect(server.target) as client:

        def work(which):
            rng = np.random.default_rng(which)
            for i in range(60):
                value = float(100 * which + i)
                way = rng.integers(4)
                if way == 0:
                    found = [client.submit(L1, ONE * value, ZERO, timeout=PATIENCE).result()]
                elif way == 1:
                    found = client.compute_many([(L1, ONE * value, ZERO)] * 3, timeout=PATIENCE)
                else:
                    found = [client.compute(L1, ONE * value, ZERO, timeout=PATIENCE)]
                assert {one.loss for one in found} == {value}
                threading.Event().wait(rng.choice([0.0, 0.0, 0.002]))

        for threads in (1, 2, 4):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, range(threads)))
