"""losswire.runs: entries that are alike are found at a glance, and read as one by one."""

import random
import struct
from dataclasses import dataclass, replace
from itertools import chain, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from losswire import frame, runs, saying, streaming
from losswire.errors import MessageError
from losswire.frame import Parts, varint
from losswire.runs import MOST, MOST_HEADER, MOST_OF_FEW, MOST_PAYLOADS, Run
from losswire.v1 import loss_pb2 as pb

#: Numbers whose varints have one byte, two, or up to ten.
EDGES = st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
NUMBERS = EDGES | st.integers(0, 300) | st.integers(0, 2**64 - 1)


def field(tag, value):
    """A field of so many bytes."""
    return bytes((tag,)) + varint(len(value)) + value


def header_of(name):
    """A header of one text, of a field that neither that of a call nor that of an answer knows."""
    return field(0x7A, name.encode())


@dataclass(frozen=True)
class Form:
    """All of a call, or of an answer, but its number and the numbers of its tensors.

    Attributes:
        header: serialised; None is not there at all.
        payloads: bytes of each.
        timeout: of a call.
        odd: what is there besides that no run has.
    """

    header: bytes | None = header_of("pred")
    payloads: tuple[int, ...] = (4, 4)
    timeout: float | None = None
    odd: str = ""

    @property
    def in_runs(self):
        """Whether two of these that follow one another are a run."""
        short = len(self.payloads) <= MOST_PAYLOADS and len(self.header or b"") <= MOST_HEADER
        return not self.odd and self.header is not None and short

    def entry(self, number, seed, within=0x22):
        """A call of this form, or an answer; the seed is that of its tensors' numbers."""
        draw = random.Random(seed)  # noqa: S311  (the same each time)
        inside = b"" if self.header is None else field(0x0A, self.header)
        inside += b"".join(field(0x12, draw.randbytes(size)) for size in self.payloads)
        if self.odd == "elsewhere":
            inside += field(0x1A, pb.Elsewhere().SerializeToString())
        elif self.odd == "inside":
            inside += b"\x7a\x01x"
        head = b"" if self.odd == "no number" else b"\x08" + varint(number)
        if self.timeout is not None and within == 0x22:
            head += b"\x11" + struct.pack("<d", self.timeout)
        if self.odd == "span" and within == 0x22:
            head += field(0x1A, pb.Span(region=1).SerializeToString())
        tail = b"\x7a\x02\x12\x00" if self.odd in {"trailing", "span"} else b""
        return field(0x0A, head + field(within, inside) + tail)


FORMS = st.builds(
    Form,
    header=st.sampled_from([None, b"", header_of("pred"), header_of("prec"), header_of("x" * 200)]),
    payloads=st.lists(st.sampled_from([0, 0, 1, 4, 127, 128]), max_size=MOST_PAYLOADS + 1).map(
        tuple
    ),
    timeout=st.none() | st.sampled_from([0.0, -0.0, 1.5, 2.5, float("inf")]),
    odd=st.sampled_from(["", "", "", "elsewhere", "inside", "no number", "span", "trailing"]),
)


@dataclass(frozen=True)
class Several:
    """Entries of one form, one after another."""

    form: Form
    numbers: list[int]
    seed: int

    def written(self, within):
        """The entries."""
        return [
            self.form.entry(number, self.seed + place, within)
            for place, number in enumerate(self.numbers)
        ]

    def keys(self):
        """Of each entry what must be equal in a run; of those that are in none, nothing is."""
        plain = self.form.in_runs
        # A timeout is compared as it is written: -0.0 is not 0.0.
        form = replace(self.form, timeout=None), str(self.form.timeout)
        return [(*form, len(varint(n))) if plain else object() for n in self.numbers]


SEVERAL = st.builds(
    Several,
    FORMS,
    st.lists(NUMBERS, min_size=1, max_size=5)
    | st.builds(
        lambda start, count: [(start + i) % 2**64 for i in range(count)],
        NUMBERS,
        st.integers(1, 2 * MOST + 3),
    ),
    st.integers(0, 9),
)


def places_of(several):
    """Where runs are, and of how many entries: found entry by entry. None stands for other fields."""
    keys = list(chain.from_iterable(one.keys() for one in several if one is not None))
    # A field that is no entry ends a run.
    breaks, count = set(), 0
    for one in several:
        if one is None:
            breaks.add(count)
        else:
            count += len(one.numbers)
    found, at = {}, 0
    while at < len(keys):
        end = at + 1
        while end < min(len(keys), at + MOST) and keys[end] == keys[at] and end not in breaks:
            end += 1
        if end > at + 1:
            found[at] = end - at
        at = end
    return found


BETWEEN = [
    saying.cancelled([7, 300]),
    [b"\x10\x05"],
    saying.opened(pb.OpenRegion(region=5).SerializeToString()),
    saying.closed(9),
]
MIXES = st.lists(SEVERAL | st.none(), max_size=6)


def asked_by(mix):
    """The message with these calls, and in place of None other fields."""
    parts = [
        b"".join(BETWEEN[place % len(BETWEEN)]) if one is None else b"".join(one.written(0x22))
        for place, one in enumerate(mix)
    ]
    return b"".join(parts)


def told_by(mix):
    """The message with these answers, and in place of None a status and a region."""
    region = pb.Region(region=1, name="n").SerializeToString()
    between = b"".join([*saying.status(2, b"why"), *saying.region(region)])
    return b"".join(between if one is None else b"".join(one.written(0x12)) for one in mix)


def one_by_one(asked):
    """The calls of a message, each by itself."""
    for one in asked.calls:
        yield from streaming.singly(one) if isinstance(one, Run) else [one]


def runs_in(asked):
    """The runs of a message, by the place of the first call of each among all."""
    found, place = {}, 0
    for one in asked.calls:
        if isinstance(one, Run):
            found[place] = one
        place += len(one.ids) if isinstance(one, Run) else 1
    return found


def parts_of(request):
    """What a request says, comparable; its bytes if it is none."""
    try:
        header, payloads, elsewhere = request if isinstance(request, Parts) else frame.read(request)
    except MessageError:
        return bytes(request)
    return bytes(header), [bytes(one) for one in payloads], [bytes(one) for one in elsewhere]


def assert_as_protobuf(message):
    """All that protobuf finds in the message of a client is found, and nothing else."""
    asked, theirs = streaming.read_asked(message), pb.ComputeStreamRequest.FromString(message)

    for ours, call in zip(one_by_one(asked), theirs.calls, strict=True):
        timeout = call.timeout if call.HasField("timeout") else None
        span = call.answer.SerializeToString() if call.HasField("answer") else b""
        assert (ours.id, str(ours.timeout), ours.answer) == (call.id, str(timeout), span)
        assert parts_of(ours.request) == parts_of(call.request.SerializeToString())
    assert (asked.cancelled, asked.closed) == (list(theirs.cancelled), list(theirs.closed))
    assert asked.opened == [one.SerializeToString() for one in theirs.open]
    return asked


def assert_runs_are_their_calls(asked):
    """A run says of its calls what they say themselves."""
    calls = [*one_by_one(asked)]
    for place, run in runs_in(asked).items():
        own = calls[place : place + len(run.ids)]
        assert run.ids == [call.id for call in own]
        assert run.size == sum(call.size for call in own)
        assert all(str(call.timeout) == str(run.timeout) for call in own)
        for index, call in enumerate(own):
            payloads = [column[index].tobytes() for column in run.payloads]
            assert parts_of(call.request) == (run.header, payloads, [])


LONG = Several(Form(), list(range(100, 100 + 2 * MOST + 1)), 0)
LAST = Several(Form(payloads=(1,) * MOST_PAYLOADS), [2**63, 2**63 + 1, 2**64 - 1], 0)
WIDE = Several(Form(payloads=(1,) * (MOST_PAYLOADS + 1)), [1, 2], 0)
LARGE = Several(Form(header=header_of("x" * MOST_HEADER)), [1, 2], 0)


@settings(deadline=None)
@example([LONG, LAST, WIDE, LARGE])
@example([Several(Form(), [127, 128, 129], 0), None, Several(Form(), [130, 131], 0)])
@example([Several(Form(header=header_of(name)), [1, 2], 0) for name in ("pred", "prec")])
@example([Several(Form(payloads=(0,)), [1, 1], 0), Several(Form(payloads=()), [0, 0], 0)])
@given(MIXES)
def test_calls_are_read_as_protobuf_reads_them(mix):
    """And runs are where two calls or more are alike but for their numbers, nowhere else."""
    asked = assert_as_protobuf(asked_by(mix))

    assert_runs_are_their_calls(asked)
    assert {place: len(run.ids) for place, run in runs_in(asked).items()} == places_of(mix)


@settings(deadline=None)
@example([LONG, LAST, WIDE, LARGE])
@given(MIXES)
def test_answers_are_read_as_protobuf_reads_them(mix):
    """Responses of one header and others, statuses and regions between."""
    message = told_by(mix)
    told, theirs = streaming.read_told(message), pb.ComputeStreamResponse.FromString(message)

    for ours, answer in zip(streaming.each(told.answers), theirs.answers, strict=True):
        response = ours.response
        assert (ours.id, ours.status) == (answer.id, answer.status)
        assert (response is None) == (answer.WhichOneof("outcome") == "status")
        if response is not None:
            parts = response if isinstance(response, Parts) else frame.read(response)
            again = frame.write(parts.header, parts.payloads)
            assert pb.ComputeResponse.FromString(again).payloads == answer.response.payloads
            assert pb.ResultHeader.FromString(parts.header) == answer.response.header
    assert told.regions == [one.SerializeToString() for one in theirs.regions]


def read_one_by_one(read, message):
    """What is read where nothing is taken for a run; None if it is refused."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "MOST", 1)
        return read_or_refused(read, message)


def read_or_refused(read, message):
    """What is read, comparable; None if it is refused."""
    try:
        return read(message)
    except MessageError:
        return None


def calls_in(message):
    """All that a client's message says."""
    asked = streaming.read_asked(message)
    calls = [(c.id, str(c.timeout), c.answer, parts_of(c.request)) for c in one_by_one(asked)]
    return calls, asked.cancelled, asked.opened, asked.closed, asked.bypass, asked.direct


def answers_in(message):
    """All that a server's message says; a response that is read no further as it is."""
    told = streaming.read_told(message)
    answers = [
        (one.id, one.status, None if one.response is None else parts_of(one.response))
        for one in streaming.each(told.answers)
    ]
    return answers, told.regions, told.bypass, told.direct_port, told.joined


@settings(deadline=None)
@given(MIXES, st.data())
def test_a_damaged_message_is_read_as_one_by_one(mix, draw):
    """Cut off, or with a byte changed: what it says is the same, or it is refused as before."""
    for whole, read in ((asked_by(mix), calls_in), (told_by(mix), answers_in)):
        message = bytearray(whole)
        if message and draw.draw(st.booleans()):
            place = draw.draw(st.integers(0, min(len(message), 400) - 1))
            message[place] = draw.draw(st.integers(0, 255))
        if draw.draw(st.booleans()):
            del message[draw.draw(st.integers(0, len(message))) :]
        sent = bytes(message)

        assert read_or_refused(read, sent) == read_one_by_one(read, sent)


@pytest.mark.parametrize("number", [1, 0x22, 300, 2**63], ids=str)
def test_any_other_byte_of_one_call_is_seen(number):
    """Wherever it differs from its neighbours, and be it in the bit by which a number goes on."""
    form = Form(timeout=1.5, payloads=(3, 0, 5))
    entries = [form.entry(number + place, place) for place in range(4)]
    for place, flip in product(range(len(entries[2])), [0x01, 0x02, 0x80, 0x88, 0xFF]):
        other = bytearray(entries[2])
        other[place] ^= flip
        message = b"".join([*entries[:2], other, entries[3]])

        assert read_or_refused(calls_in, message) == read_one_by_one(calls_in, message)


@given(st.binary(max_size=40), st.integers(1, 5))
def test_any_bytes_again_and_again_are_read_as_one_by_one(entry, times):
    """Whatever a stranger repeats: nothing but what its entries say, or a refusal."""
    for message in (field(0x0A, entry) * times, entry * times):
        for read in (calls_in, answers_in):
            assert read_or_refused(read, message) == read_one_by_one(read, message)


@pytest.mark.parametrize("alone", [0, 1, 3])
def test_calls_that_are_alike_count_each(alone):
    """A message has as many fields as one whose calls differ, and not one more."""
    first = Form(payloads=(1,)).entry(1, 0) * alone
    others = frame.MAX_FIELDS - alone
    one = Form().entry(5, 0)

    asked = streaming.read_asked(first + one * others)
    assert len([*one_by_one(asked)]) == frame.MAX_FIELDS
    with pytest.raises(MessageError, match=f"at most {frame.MAX_FIELDS}"):
        streaming.read_asked(first + one * (others + 1))


def test_many_runs_of_few_calls_are_not_looked_for():
    """To find them takes longer than to read their calls, which is what is done with the others."""
    mix = [
        Several(Form(header=header_of(str(1000 + i))), [1, 2], i) for i in range(2 * MOST_OF_FEW)
    ]
    asked = assert_as_protobuf(asked_by(mix))

    assert_runs_are_their_calls(asked)
    assert len(runs_in(asked)) == MOST_OF_FEW
    assert len([*one_by_one(asked)]) == 4 * MOST_OF_FEW


@given(
    st.lists(NUMBERS, min_size=1, max_size=5), st.lists(st.sampled_from([0, 1, 200]), min_size=1)
)
def test_answers_that_are_alike_are_written_as_each_by_itself(ids, sizes):
    """Byte for byte; and read again they are a run."""
    header = pb.ResultHeader(metrics=["acc"]).SerializeToString()
    columns = [random.Random(size).randbytes(size * len(ids)) for size in sizes]  # noqa: S311
    together = b"".join(saying.answers(ids, header, list(map(memoryview, columns))))

    def own(place):
        """The payloads of one of them."""
        return [
            column[place * size : (place + 1) * size]
            for column, size in zip(columns, sizes, strict=True)
        ]

    alone = [saying.answer(number, Parts(header, own(place))) for place, number in enumerate(ids)]
    assert together == b"".join(chain.from_iterable(alone))


def test_a_part_of_a_run_is_the_run_of_these_calls():
    """Ids and payloads of the same entries."""
    (run,) = streaming.read_asked(asked_by([Several(Form(), list(range(10)), 0)])).calls
    part = run.part(3, 7)

    assert isinstance(part, Run)
    assert part.ids == [3, 4, 5, 6]
    assert [column.shape for column in part.payloads] == [(4, 4), (4, 4)]
    for ours, whole in zip(part.payloads, run.payloads, strict=True):
        assert ours.tobytes() == whole[3:7].tobytes()
