"""lossserver.regions and sharing: what a stream may have of shared memory, and what it may say of it."""

import asyncio
import contextlib
import errno
import threading
from pathlib import Path

import pytest

from lossserver import offering
from lossserver.admit import Admission, Limits
from lossserver.config import Sharing
from lossserver.metrics import Metrics
from lossserver.regions import MAX_REGIONS, Regions
from lossserver.sharing import SharedMemory
from losswire import offer, region
from losswire.errors import MessageError, NotServedError, OverloadedError
from losswire.frame import Parts
from losswire.offer import AVAILABLE, FOLDER, PREFIX
from losswire.v1 import loss_pb2 as pb
from tests.server.test_metrics import page

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs Linux")

PAGE = 4096


def shared(most: int = 1 << 20, metrics: Metrics | None = None) -> SharedMemory:
    return SharedMemory(Sharing(max_shared_bytes=most), metrics or Metrics())


def opened(number: int = 1, size: int = PAGE) -> pb.OpenRegion:
    return pb.OpenRegion(region=number, bytes=size)


def elsewhere(**span: int) -> bytes:
    return pb.Elsewhere(span=pb.Span(**span)).SerializeToString()


def with_region(scenario, size: int = PAGE):
    """What a scenario gives of a stream with region 1."""

    async def run():
        regions = Regions(shared())
        await regions.open(opened(1, size))
        try:
            return await scenario(regions)
        finally:
            regions.end()

    return asyncio.run(run())


def files() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def nothing_left(of_all: SharedMemory) -> int:
    """0, once threads that were still at it are done."""
    while of_all.bytes:  # noqa: ASYNC110  (it is no event)
        await asyncio.sleep(0)
    return of_all.bytes


def test_who_has_the_name_has_the_memory():
    """What is written there the stream finds in a span of it."""

    async def scenario():
        regions = Regions(shared())
        name = await regions.open(opened())
        theirs = await asyncio.to_thread(region.taken, name, PAGE)
        theirs[64:69] = b"hello"
        found = bytes(regions.bytes_of(pb.Span(region=1, offset=64, bytes=5)))
        regions.end()
        return found

    assert asyncio.run(scenario()) == b"hello"


@pytest.mark.parametrize(
    ("span", "rule"),
    [
        ({"region": 2, "bytes": 1}, "region of its stream"),
        ({"region": 1, "offset": 1, "bytes": 1}, "multiple of 64"),
        ({"region": 1, "offset": 64, "bytes": PAGE - 63}, "lie in its region"),
        ({"region": 1, "offset": 2**64 - 64, "bytes": 128}, "lie in its region"),
        ({"region": 1, "bytes": 2**64 - 1}, "lie in its region"),
    ],
)
def test_a_span_that_lies_is_refused(span, rule):
    """Of no region of the stream, askew, or beyond its end."""

    async def scenario(regions):
        with pytest.raises(MessageError, match=rule):
            regions.bytes_of(pb.Span(**span))

    with_region(scenario)


def test_a_stream_does_not_see_anothers_regions():
    """The same number is another region in another stream, or none."""

    async def scenario(_):
        with pytest.raises(MessageError, match="region of its stream"):
            Regions(shared()).bytes_of(pb.Span(region=1, bytes=1))

    with_region(scenario)


@pytest.mark.parametrize("offset", [0, 64, 192])
def test_an_answer_must_lie_apart_from_its_call(offset):
    """What is still to be read would be written over."""

    async def scenario(regions):
        read = elsewhere(region=1, offset=128, bytes=100)
        answer = pb.Span(region=1, offset=offset, bytes=128).SerializeToString()
        if offset:
            with pytest.raises(MessageError, match="apart"):
                regions.room(answer, Parts(b"", (), [read]))
        else:
            regions.room(answer, Parts(b"", (), [read, elsewhere(region=7, bytes=PAGE)]))

    with_region(scenario)


def test_an_answers_span_must_be_one():
    """Bytes that are none are refused."""

    async def scenario(regions):
        with pytest.raises(MessageError, match=r"must be a losswire\.v1\.Span"):
            regions.room(b"\xff", Parts(b"", ()))

    with_region(scenario)


def test_a_call_takes_up_what_it_reads():
    """Tensors in a region count as if the call had brought them."""

    async def scenario(regions):
        admission = Admission(Limits(max_bytes_in_flight=1000, max_message_bytes=1000))
        place = admission.begin()
        place.enter(100, None)
        regions.read(place, pb.Span(region=1, bytes=500))
        return admission.bytes

    assert with_region(scenario) == 600


def test_a_number_is_one_regions():
    """A second with the same number is refused, and the first one stays."""

    async def scenario(regions):
        with pytest.raises(MessageError, match="no other region"):
            await regions.open(opened())
        return len(regions.bytes_of(pb.Span(region=1, bytes=PAGE)))

    assert with_region(scenario) == PAGE


@pytest.mark.parametrize(
    ("most", "size", "error", "rule"),
    [
        (0, PAGE, NotServedError, "shares no memory"),
        (1 << 20, 0, MessageError, "at least 1 byte"),
        (1 << 20, (1 << 19) + 1, OverloadedError, "a stream may have at most 524288 bytes"),
        (1 << 20, 2**64 - 1, OverloadedError, "a stream may have"),
        (2**60, 2**58, OverloadedError, "memory must be there"),
    ],
)
def test_a_region_that_is_too_much_is_refused(most, size, error, rule):
    """Nothing is taken for it: the next is made."""

    async def scenario():
        of_all = shared(most)
        regions = Regions(of_all)
        with pytest.raises(error, match=rule):
            await regions.open(opened(1, size))
        return of_all.bytes

    assert asyncio.run(scenario()) == 0


def test_all_streams_together_have_a_quota():
    """Each has half of it at most; the third stream gets nothing until another gives it back."""

    async def scenario():
        of_all = shared(1 << 20)
        streams = [Regions(of_all) for _ in range(3)]
        for stream in streams[:2]:
            await stream.open(opened(1, 1 << 19))
        with pytest.raises(OverloadedError, match="all streams together"):
            await streams[2].open(opened())
        streams[0].close(1)
        await streams[2].open(opened())
        used = of_all.bytes
        for stream in streams:
            stream.end()
        return used, of_all.bytes

    assert asyncio.run(scenario()) == ((1 << 19) + PAGE, 0)


def test_memory_counts_while_somebody_looks_at_it():
    """A job that still reads a closed region has it counted until it is done."""

    metrics = Metrics()

    async def scenario():
        of_all = shared(metrics=metrics)
        regions = Regions(of_all)
        await regions.open(opened())
        view = regions.bytes_of(pb.Span(region=1, bytes=PAGE))
        regions.end()
        during = of_all.bytes, page(metrics)["shared_bytes",]
        view[0] = 1  # there is still memory
        del view
        return during, await nothing_left(of_all)

    assert asyncio.run(scenario()) == ((PAGE, PAGE), 0)
    assert page(metrics)["shared_bytes",] == 0


def test_a_stream_has_so_many_regions():
    """However small they are."""

    async def scenario():
        regions = Regions(shared(1 << 30))
        for number in range(MAX_REGIONS):
            await regions.open(opened(number, 1))
        with pytest.raises(OverloadedError, match="regions"):
            await regions.open(opened(MAX_REGIONS, 1))
        regions.end()

    asyncio.run(scenario())


def test_regions_that_are_closed_before_they_are_there_are_bounded(monkeypatch):
    """Who asks and gives up at once cannot have more made than any other; and nothing is left."""
    go = threading.Event()
    make = region.make

    def slow(size):
        go.wait()
        return make(size)

    monkeypatch.setattr(region, "make", slow)

    async def scenario():
        of_all = shared(1 << 30)
        regions = Regions(of_all)
        asked = []
        for number in range(MAX_REGIONS + 1):
            asked.append(asyncio.ensure_future(regions.open(opened(number))))
            await asyncio.sleep(0)
            regions.close(number)
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        kinds = {type(one) for one in found[:-1]}, type(found[-1])
        del found, asked
        return *kinds, await nothing_left(of_all)

    before = files()

    assert asyncio.run(scenario()) == ({MessageError}, OverloadedError, 0)
    assert files() == before


def test_who_is_gone_before_a_region_is_there_leaves_nothing():
    """A stream that is cancelled meanwhile has no memory, file or name left over."""

    async def scenario():
        of_all = shared()
        regions = Regions(of_all)
        asked = asyncio.ensure_future(regions.open(opened()))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        regions.end()
        return await nothing_left(of_all)

    before = files()

    assert asyncio.run(scenario()) == 0
    assert files() == before


@pytest.mark.parametrize("gone", ["the caller", "the region"])
def test_what_ends_just_as_a_region_is_there_leaves_no_file(gone):
    """Nor memory, which an open file would hold though it does not count any more."""

    async def scenario():
        of_all = shared()
        regions = Regions(of_all)
        asked = asyncio.ensure_future(regions.open(opened()))
        there = pb.Span(region=1, bytes=PAGE)
        while True:
            with contextlib.suppress(MessageError):
                regions.bytes_of(there)
                break
            await asyncio.sleep(0)
        _ = asked.cancel() if gone == "the caller" else regions.close(1)
        with pytest.raises((asyncio.CancelledError, MessageError)):
            await asked
        regions.end()
        return await nothing_left(of_all)

    before = files()

    assert asyncio.run(scenario()) == 0
    assert files() == before


def test_a_region_that_is_given_up_is_no_other_of_its_number(monkeypatch):
    """Who closes a number and asks for it again has the second region, whatever became of the first."""
    go = threading.Event()
    make = region.make

    def slow(size):
        go.wait()
        return make(size)

    monkeypatch.setattr(region, "make", slow)

    async def scenario():
        regions = Regions(shared())
        first = asyncio.ensure_future(regions.open(opened()))
        await asyncio.sleep(0)
        regions.close(1)
        second = asyncio.ensure_future(regions.open(opened()))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(MessageError, match="closed"):
            await first
        await second
        found = len(regions.bytes_of(pb.Span(region=1, bytes=PAGE)))
        regions.end()
        return found

    assert asyncio.run(scenario()) == PAGE


def test_a_socket_that_cannot_be_had_leaves_no_file(monkeypatch):
    """A server that may open no more files refuses the region, and loses none."""

    def full(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario():
        of_all = shared()
        regions = Regions(of_all)
        with pytest.raises(OverloadedError, match="Too many open files"):
            await regions.open(opened())
        return await nothing_left(of_all)

    async def without_sockets():
        # asyncio has a socket of its own, so not before it is there.
        monkeypatch.setattr(offer.socket, "socket", full)
        return await scenario()

    before = files()

    assert asyncio.run(without_sockets()) == 0
    monkeypatch.undo()
    assert files() == before


@pytest.mark.alone  # no other test may have such a name meanwhile
def test_a_name_that_nobody_asks_for_goes(monkeypatch):
    """After some seconds, also while the region stays."""
    monkeypatch.setattr(offering, "OFFERED", 0.0)

    async def scenario(regions):
        while list(  # noqa: ASYNC110  (it is no event)
            FOLDER.glob(PREFIX + "*")
        ):
            await asyncio.sleep(0)
        return len(regions.bytes_of(pb.Span(region=1, bytes=PAGE)))

    assert with_region(scenario) == PAGE


def test_memory_that_cannot_be_had_is_an_error(monkeypatch):
    """A machine without room refuses the region, and nobody dies."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(region, "make", full)

    async def scenario():
        of_all = shared()
        regions = Regions(of_all)
        with pytest.raises(OverloadedError, match="No space left"):
            await regions.open(opened())
        return of_all.bytes

    assert asyncio.run(scenario()) == 0


def test_memory_that_cannot_be_mapped_is_given_back(monkeypatch):
    """So is a region whose mapping fails."""

    def full(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(region, "mapped", full)
    before = files()
    of_all = shared()
    of_all.take(PAGE, 0)
    with pytest.raises(OSError, match="Cannot allocate"):
        of_all.make(PAGE)

    assert of_all.bytes == 0
    assert files() == before
