"""The shared-memory regions of a stream, and what lies where in them.

A client writes tensors into a region of its stream, and finds the answer's
there. It can write at any time, also while we read; so what is to be checked is
copied out before that (outline.py), and only a pred whose gradient is wanted, and
whose values are not checked, is read where it lies.

On the event loop; needs no lock.
"""

import asyncio
import mmap
import os
from collections.abc import Callable, Iterable

from google.protobuf.message import DecodeError

from lossserver.admit import Place
from lossserver.elsewhere import places
from lossserver.offering import offered
from lossserver.room import Room
from lossserver.sharing import SharedMemory
from losswire.errors import MessageError, OverloadedError
from losswire.frame import Parts
from losswire.region import ALIGNMENT
from losswire.v1 import loss_pb2 as pb

#: Regions of one stream at a time. Each costs a mapping, of which a process may have some 65,000.
MAX_REGIONS = 256


class Regions:
    """The regions of one stream.

    Parameters:
        shared: what it may have of.
    """

    def __init__(self, shared: SharedMemory) -> None:
        self._shared = shared
        self._regions: dict[int, _Region] = {}
        # Threads that make one. Who closes it meanwhile does not stop them.
        self._making = 0

    async def open(self, asked: pb.OpenRegion) -> str:
        """Make a region; the name under which it can be had, once and for some seconds.

        Raises:
            LossError: it is not to be had.
        """
        number, size = asked.region, asked.bytes
        if number in self._regions:
            raise MessageError("must be of no other region", field="region", given=number)
        if len(self._regions) + self._making >= MAX_REGIONS:
            raise OverloadedError(f"a stream may have at most {MAX_REGIONS} regions")
        self._shared.take(size, sum(one.size for one in self._regions.values()))
        made = self._regions[number] = _Region(size)
        try:
            making = asyncio.ensure_future(asyncio.to_thread(made.make, self._shared))
            self._making += 1
            making.add_done_callback(self._made)
            making.add_done_callback(made.there)
            # Whoever waits may be gone before it is there.
            await asyncio.shield(making)
            return made.offer()
        except OSError as error:
            self._forget(number, made)
            raise OverloadedError(f"its memory must be there ({error.strerror})") from None
        except BaseException:
            self._forget(number, made)
            raise

    def _forget(self, number: int, made: "_Region") -> None:
        made.close()
        if self._regions.get(number) is made:  # it may have been closed, and the number another's
            del self._regions[number]

    def _made(self, _: object) -> None:
        self._making -= 1

    def close(self, number: int) -> None:
        """Let go of a region. What still looks at its memory may go on."""
        if (found := self._regions.pop(number, None)) is not None:
            found.close()

    def end(self) -> None:
        """Let go of all."""
        while self._regions:
            self.close(next(iter(self._regions)))

    def room(self, answer: bytes, parts: Parts) -> Room:
        """Where the answer to a call may be written: a serialised Span.

        Raises:
            MessageError: there is no such span, or the call is to be read from there.
        """
        try:
            span = pb.Span.FromString(answer)
        except DecodeError:
            raise MessageError("must be a losswire.v1.Span", field="answer") from None
        memory = self.bytes_of(span)
        check_apart(span, [one.span for one in places(parts) if one.HasField("span")])
        return Room(span, memory)

    def read(self, place: Place, span: pb.Span) -> memoryview:
        """The memory of a span that a call reads, which the call takes up as if it had brought it.

        Raises:
            MessageError: there is no such span.
            MessageTooLargeError, OverloadedError: there is no room for it.
        """
        memory = self.bytes_of(span)
        place.more(span.bytes)
        return memory

    def bytes_of(self, span: pb.Span) -> memoryview:
        """The memory of a span, to read and write.

        Raises:
            MessageError: there is no such span.
        """
        found = self._regions.get(span.region)
        if found is None or found.memory is None:
            raise MessageError("a span must be of a region of its stream", given=span.region)
        if span.offset % ALIGNMENT:
            raise MessageError(
                f"a span must begin at a multiple of {ALIGNMENT} bytes", given=span.offset
            )
        if span.offset + span.bytes > found.size:
            raise MessageError(
                f"a span must lie in its region of {found.size} bytes",
                given=f"{span.bytes} bytes from {span.offset}",
            )
        return memoryview(found.memory)[span.offset : span.offset + span.bytes]


class _Region:
    """One of them.

    Attributes:
        size: its bytes.
        memory: None until it is there, and again when nobody wants it any more.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory: mmap.mmap | None = None
        self._made: tuple[int, mmap.mmap] | None = None
        self._descriptor = -1
        self._closed = False
        self._withdraw: Callable[[], None] = lambda: None

    def make(self, shared: SharedMemory) -> None:
        """Have the memory. In any thread, which returns nothing: asyncio keeps what it returns."""
        self._made = shared.make(self.size)

    def there(self, making: "asyncio.Future[None]") -> None:
        """Take what was made, or give it up if nobody wants it any more."""
        made, self._made = self._made, None
        if made is None:
            making.exception()  # asyncio would log what nobody has waited for
        elif self._closed:
            os.close(made[0])
        else:
            self._descriptor, self.memory = made

    def offer(self) -> str:
        """Have whoever asks first get the descriptor; the name under which to ask.

        Raises:
            MessageError: it was closed.
            OSError: it cannot be offered.
        """
        if self._closed:
            raise MessageError("must not be closed before it is there", field="region")
        # Which closes it in the end, or now, if there can be no offer.
        descriptor, self._descriptor = self._descriptor, -1
        name, self._withdraw = offered(descriptor)
        return name

    def close(self) -> None:
        """Offer it no longer, and let go of its memory."""
        self._closed, self.memory = True, None
        self._withdraw()
        if self._descriptor >= 0:  # it was never offered
            os.close(self._descriptor)
            self._descriptor = -1


def check_apart(span: pb.Span, others: Iterable[pb.Span]) -> None:
    """Whether an answer's span lies apart from those of its call.

    Raises:
        MessageError: what is read for it would be written over.
    """
    for other in others:
        apart = (
            other.region != span.region
            or other.offset >= span.offset + span.bytes
            or other.offset + other.bytes <= span.offset
        )
        if not apart:
            raise MessageError("must lie apart from what the call reads", field="answer")
