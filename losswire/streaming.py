"""The messages of a ComputeStream, read without copying tensors. (saying.py writes them.)

A call's request stays one view of its message, which frame.read takes apart, and
so does an answer's response.
tests/wire/test_streaming.py compares each with what protobuf makes of it.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from losswire import frame, lists
from losswire.errors import MessageError
from losswire.frame import Parts, fields
from losswire.runs import Run, entries
from losswire.tensor import Buffer

_DOUBLE = struct.Struct("<d")

#: Bytes of a name that are looked at: more than any has.
LONGEST_NAME = 64

_64_BITS = 2**64 - 1
_32_BITS = 2**32 - 1


def _varint_tag(number: int) -> int:
    return number << 3


def _bytes_tag(number: int) -> int:
    return number << 3 | 2


# Of StreamCall and of StreamAnswer.
_ID = _varint_tag(1)
_TIMEOUT = 2 << 3 | 1
_ANSWER, _REQUEST = _bytes_tag(3), _bytes_tag(4)
_RESPONSE, _STATUS = _bytes_tag(2), _bytes_tag(3)

#: Of the messages themselves.
CALLS = _bytes_tag(1)
_OPENED, _DIRECT = _bytes_tag(3), _bytes_tag(6)
_CANCELLED, _CLOSED, _BYPASS = 2, 4, 5
_ANSWERS, _REGIONS, _BYPASS_NAME = _bytes_tag(1), _bytes_tag(2), _bytes_tag(3)
_DIRECT_PORT, _JOINED, _TAKES_LISTS = _varint_tag(4), _varint_tag(5), _varint_tag(6)
_LISTS = _bytes_tag(7)


class Called(NamedTuple):
    """A StreamCall.

    Attributes:
        id: chosen by the client.
        timeout: seconds for which the caller waits; None is for ever.
        answer: a serialised Span, where tensors of the answer may go; empty for none.
        request: a serialised ComputeRequest, or its parts.
    """

    id: int
    timeout: float | None
    answer: bytes
    request: Buffer | Parts

    @property
    def size(self) -> int:
        """Bytes of the request."""
        return self.request.size if isinstance(self.request, Parts) else len(self.request)


class Asked(NamedTuple):
    """A ComputeStreamRequest.

    Attributes:
        calls: in order; such as differ in their numbers alone as a run.
        cancelled: ids of calls whose answers nobody waits for.
        opened: serialised OpenRegions.
        closed: numbers of regions that are not used any longer.
        bypass: whether there is to be one.
        direct: the name of the direct connection that is to be it; empty if none is.
    """

    calls: Sequence[Called | Run] = ()
    cancelled: Sequence[int] = ()
    opened: Sequence[bytes] = ()
    closed: Sequence[int] = ()
    bypass: bool = False
    direct: bytes = b""


class Answered(NamedTuple):
    """A StreamAnswer: a response, or a status of what went wrong.

    Attributes:
        id: of the call.
        response: a serialised ComputeResponse, or its parts; None if there is a status.
        status: a serialised google.rpc.Status; empty if there is a response.
    """

    id: int
    response: Buffer | Parts | None
    status: bytes


def read_asked(message: Buffer) -> Asked:
    """A serialised ComputeStreamRequest.

    Raises:
        MessageError: it is none, or has too many fields.
    """
    calls: list[Called | Run] = []
    count = listed = 0
    opened: list[bytes] = []
    numbers: dict[int, list[int]] = {_CANCELLED: [], _CLOSED: [], _BYPASS: []}
    direct = b""
    for tag, value in entries(message, _REQUEST):
        if isinstance(value, Run):
            calls.append(value)
            count += len(value.ids)
        elif isinstance(value, int):
            numbers.get(tag >> 3, []).append(value)
        elif tag == CALLS:
            calls.append(_read_call(value))
            count += 1
        elif tag == _LISTS:
            calls.append(run := lists.read(value))
            count, listed = count + len(run.ids), listed + 1
            if count > frame.MAX_FIELDS or listed > lists.MAX_LISTS:
                rule = f"must have at most {lists.MAX_LISTS} lists, of {frame.MAX_FIELDS} calls"
                raise MessageError(f"a message {rule}")
        elif tag == _OPENED:
            opened.append(bytes(value))
        elif tag == _DIRECT:
            direct = bytes(value[:LONGEST_NAME])
        elif tag in (_bytes_tag(_CANCELLED), _bytes_tag(_CLOSED)):
            own = numbers[tag >> 3]
            own += _packed(value, len(own))
    cancelled = [one & _64_BITS for one in numbers[_CANCELLED]]
    closed = [one & _32_BITS for one in numbers[_CLOSED]]
    bypass = any(numbers[_BYPASS][-1:])
    return Asked(calls, cancelled, opened, closed, bypass, direct)


def singly(run: Run) -> list[Called]:
    """Each call of a run by itself."""
    return [Called(number, run.timeout, b"", parts) for number, parts in run.apart()]


def _read_call(message: memoryview) -> Called:
    number, timeout = 0, None
    answers: list[Buffer] = []
    requests: list[Buffer] = []
    for tag, value in fields(message, frame.MAX_FIELDS_WITHIN):
        if isinstance(value, int):
            number = value & _64_BITS if tag == _ID else number
        elif tag == _REQUEST:
            requests.append(value)
        elif tag == _TIMEOUT:
            (timeout,) = _DOUBLE.unpack(value)
        elif tag == _ANSWER:
            answers.append(value)
    # Two serialised messages in a row are one, merged, as protobuf has it of a field sent twice.
    request = requests[0] if len(requests) == 1 else b"".join(requests)
    return Called(number, timeout, b"".join(answers), request)


def _packed(view: memoryview, before: int) -> Iterable[int]:
    """Numbers without tags: so protobuf writes a repeated number."""
    at = 0
    for _ in range(frame.MAX_FIELDS - before):
        if at == len(view):
            return
        value, at = frame.read_varint(view, at)
        yield value
    if at < len(view):
        raise MessageError(f"a message must have at most {frame.MAX_FIELDS} fields and numbers")


class Told(NamedTuple):
    """A ComputeStreamResponse.

    Attributes:
        answers: in order; such as differ in their numbers alone as a run.
        regions: serialised Regions.
        bypass: the name of one; empty if there is none.
        direct_port: of connections that may be it; 0 if there is none.
        joined: the one that was named is.
        takes_lists: whether the server takes lists of calls.
    """

    answers: Sequence[Answered | Run] = ()
    regions: Sequence[bytes] = ()
    bypass: str = ""
    direct_port: int = 0
    joined: bool = False
    takes_lists: bool = False


def read_told(message: Buffer) -> Told:
    """A serialised ComputeStreamResponse.

    Raises:
        MessageError: it is none.
    """
    answers: list[Answered | Run] = []
    regions: list[bytes] = []
    bypass = ""
    numbers = {_DIRECT_PORT: 0, _JOINED: 0, _TAKES_LISTS: 0}
    for tag, value in entries(message, _RESPONSE):
        if isinstance(value, Run):
            answers.append(value)
        elif isinstance(value, int):
            numbers[tag] = value
        elif tag == _LISTS:
            answers.append(lists.read(value))
        elif tag == _ANSWERS:
            answers.append(_read_answer(value))
        elif tag == _REGIONS:
            regions.append(bytes(value))
        elif tag == _BYPASS_NAME:
            bypass = bytes(value).decode("ascii", "replace")
    port = numbers[_DIRECT_PORT] & _32_BITS
    joined, takes_lists = bool(numbers[_JOINED]), bool(numbers[_TAKES_LISTS])
    return Told(answers, regions, bypass, port, joined, takes_lists)


def each(answers: Iterable[Answered | Run]) -> Iterator[Answered]:
    """The answers, each by itself."""
    for one in answers:
        if isinstance(one, Run):
            for number, parts in one.apart():
                yield Answered(number, parts, b"")
        else:
            yield one


def _read_answer(message: memoryview) -> Answered:
    number = 0
    response: Buffer | None = None
    status = b""
    for tag, value in fields(message):
        if isinstance(value, int):
            number = value & _64_BITS if tag == _ID else number
        elif tag == _RESPONSE:
            # Of a oneof the last one counts; the same one twice is merged.
            response, status = b"".join((response, value)) if response else value, b""
        elif tag == _STATUS:
            response, status = None, bytes(value)
    return Answered(number, response, status)
